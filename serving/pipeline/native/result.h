// One output of a run, and how it is written.

#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "bytes.h"
#include "elements.h"
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

// Adds how an output of the Open Inference Protocol begins, up to its datatype; the key is a name with its colon.
inline void add_head(Bytes& json, std::string_view key, const Dims& dims, size_t rank, std::string_view datatype) {
    json.add(R"({"name":)");
    json.add(key.substr(0, key.size() - 1));
    json.add(R"(,"shape":[)");
    for (size_t axis = 0; axis < rank; ++axis) {
        if (axis) json.add(',');
        add_size(json, dims[axis]);
    }
    json.add(R"(],"datatype":")");
    json.add(datatype);
}
inline void add_binary_size(Bytes& json, size_t size) {
    json.add(R"(","parameters":{"binary_data_size":)");
    add_size(json, static_cast<int64_t>(size));
    json.add("}}");
}

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

    [[nodiscard]] Type type() const { return type_; }
    [[nodiscard]] const char* data() const { return data_.data(); }
    [[nodiscard]] std::string_view string_at(size_t index) const { return string(begin() + index * STRING_SIZE); }

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
        add_head(json, output.key, dims, rank, output.datatype);
        if (binary) {
            add_binary_size(json, type_ == Type::string ? strings_size() : data_.size());
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
        return for_type(type_, [&](auto element) { return all_finite<decltype(element)>(); });
    }
    template <typename T>
    [[nodiscard]] bool all_finite() const {
        if constexpr (is_float<T>)
            for (const char* item = begin(); item < end(); item += sizeof(T))
                if (!std::isfinite(widened(element_at<T>(item)))) return false;
        return true;
    }

    void add_nest(const Target& to, const char* from, size_t depth) const {
        for_type(type_, [&](auto element) { add_lists<decltype(element)>(to, from, depth); });
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
        if constexpr (std::is_same_v<T, Part>) {
            const std::string_view text = string(from);
            if (as_bytes || (!all_text && !is_text(text)))
                add_base64(to.json, text);
            else
                add_text(to.json, text);
            return from + STRING_SIZE;
        } else {
            add_number(to.json, element_at<T>(from), style_, to.null);
            return from + sizeof(T);
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
