// One output of a run, and how it is written.

#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "bytes.h"
#include "model.h"
#include "write.h"

namespace accelerator {

// How an engine's strings are read, each of STRING_SIZE bytes.
struct Strings {
    const char* (*data)(const void*);
    size_t (*size)(const void*);
};

// An output as the engine gives it, valid until the run ends.
struct Given {
    Type type;
    size_t rank;
    Dims dims;
    std::string_view data;
    const Strings* strings;  // nullptr where the engine gives none
};

class Result {
  public:
    size_t rank = 0;
    Dims dims;
    bool as_bytes = false, all_text = true;  // of strings: written in base64; UTF-8

    // Takes a tensor that a run gave.
    [[nodiscard]] Declined look(const Given& given, const Output& output) {
        strings_ = given.strings;
        type_ = output.type;
        as_bytes = output.as_bytes;
        rank = given.rank;
        dims = given.dims;
        data_ = given.data;
        if (given.type != type_) return Decline::result;
        int64_t count = 1;
        for (size_t axis = 0; axis < rank; ++axis) count *= dims[axis];
        if (static_cast<size_t>(count) * item_size(type_) != data_.size()) return Decline::result;
        row_size_ = count && rank ? data_.size() / static_cast<size_t>(dims[0]) : 0;
        return {};
    }

    // Becomes a part of itself: `count` rows from the row `first` on.
    void cut(int64_t first, int64_t count) {
        dims[0] = count;
        data_ = data_.substr(static_cast<size_t>(first) * row_size_, static_cast<size_t>(count) * row_size_);
    }

    // Finds out how it is to be written, by its values.
    void settle(bool null) {
        // Numbers of a tensor that has one which is not finite are written as Python's json does.
        if (!null && !is_finite()) style_ = Style::python;
        if (type_ == Type::string)
            for (const char* item = begin(); all_text && item < end(); item += STRING_SIZE)
                all_text = is_text(string(item));
    }

    // Adds the nested lists of a row, or of all, from `depth` on.
    void add(Bytes& json, size_t depth, int64_t row, bool null) const {
        add_nest({json, dims, rank, null}, begin() + static_cast<size_t>(row) * row_size_, depth);
    }

    // Adds an output of the Open Inference Protocol; its data follows the JSON where it is binary.
    void add_tensor(Bytes& json, const Output& output, bool binary, bool null) const {
        json.add(R"({"name":)");
        json.add(output.key.substr(0, output.key.size() - 1));
        json.add(R"(,"shape":[)");
        for (size_t axis = 0; axis < rank; ++axis) {
            if (axis) json.add(',');
            add_size(json, dims[axis]);
        }
        json.add(R"(],"datatype":")");
        json.add(output.datatype);
        if (binary) {
            json.add(R"(","parameters":{"binary_data_size":)");
            add_size(json, static_cast<int64_t>(type_ == Type::string ? strings_size() : data_.size()));
            json.add("}}");
        } else {
            json.add(R"(","data":)");
            Dims flat;
            flat[0] = static_cast<int64_t>(data_.size() / item_size(type_));
            add_nest({json, flat, 1, null}, begin(), 0);
            json.add('}');
        }
    }

    // Adds the data; strings each behind their length in 4 bytes.
    void add_binary(Bytes& body) const {
        if (type_ != Type::string) return body.add(data_);
        for (const char* item = begin(); item < end(); item += STRING_SIZE) {
            body.add_bytes_of(static_cast<uint32_t>(string(item).size()));
            body.add(string(item));
        }
    }

  private:
    struct Target {
        Bytes& json;
        const Dims& dims;
        size_t rank;
        bool null;
    };

    [[nodiscard]] const char* begin() const { return data_.data(); }
    [[nodiscard]] const char* end() const { return data_.data() + data_.size(); }
    [[nodiscard]] std::string_view string(const char* item) const {
        return {strings_->data(item), strings_->size(item)};
    }
    [[nodiscard]] size_t strings_size() const {
        size_t size = 0;
        for (const char* item = begin(); item < end(); item += STRING_SIZE) size += 4 + string(item).size();
        return size;
    }

    [[nodiscard]] bool is_finite() const {
        if (type_ == Type::float32) return all_finite<float>();
        return type_ != Type::float64 || all_finite<double>();
    }
    template <typename T>
    [[nodiscard]] bool all_finite() const {
        for (const char* item = begin(); item < end(); item += sizeof(T)) {
            T value;
            std::memcpy(&value, item, sizeof value);
            if (!std::isfinite(value)) return false;
        }
        return true;
    }

    void add_nest(const Target& to, const char* from, size_t depth) const {
        switch (type_) {
            case Type::float32: add_lists<float>(to, from, depth); break;
            case Type::float64: add_lists<double>(to, from, depth); break;
            case Type::int8: add_lists<int8_t>(to, from, depth); break;
            case Type::int16: add_lists<int16_t>(to, from, depth); break;
            case Type::int32: add_lists<int32_t>(to, from, depth); break;
            case Type::int64: add_lists<int64_t>(to, from, depth); break;
            case Type::uint8: add_lists<uint8_t>(to, from, depth); break;
            case Type::uint16: add_lists<uint16_t>(to, from, depth); break;
            case Type::uint32: add_lists<uint32_t>(to, from, depth); break;
            case Type::uint64: add_lists<uint64_t>(to, from, depth); break;
            case Type::boolean: add_lists<Flag>(to, from, depth); break;
            case Type::string: add_lists<std::string_view>(to, from, depth); break;
        }
    }
    // Returns where the next element begins.
    template <typename T>
    const char* add_lists(const Target& to, const char* from, size_t depth) const {
        if (depth == to.rank) return add_element<T>(to, from);
        to.json.add('[');
        for (int64_t index = 0; index < to.dims[depth]; ++index) {
            if (index) to.json.add(',');
            from = add_lists<T>(to, from, depth + 1);
        }
        to.json.add(']');
        return from;
    }
    template <typename T>
    const char* add_element(const Target& to, const char* from) const {
        if constexpr (std::is_same_v<T, std::string_view>) {
            const std::string_view text = string(from);
            if (as_bytes || (!all_text && !is_text(text)))
                add_base64(to.json, text);
            else
                add_text(to.json, text);
            return from + STRING_SIZE;
        } else {
            T value;
            std::memcpy(&value, from, sizeof value);
            add_number(to.json, value, style_, to.null);
            return from + sizeof value;
        }
    }

    const Strings* strings_ = nullptr;
    std::string_view data_;
    size_t row_size_ = 0;
    Type type_{};
    Style style_ = Style::orjson;
};

using Results = std::array<Result, MAX_TENSORS>;

// What becomes of a request. Times are those of `now`.
struct Answer {
    Declined declined;      // where it is left to Python; all else is then of no use
    int code = 0;           // TensorFlow's, where it refuses the request; the body is its message
    Bytes body;
    size_t json_size = 0;   // of the body, where binary tensors follow the JSON
    size_t signature = 0;   // its position
    int64_t rows = 1;       // the size of the batch
    int64_t decoding = 0, decoded = 0, ran = 0, encoded = 0;
};

}  // namespace accelerator
