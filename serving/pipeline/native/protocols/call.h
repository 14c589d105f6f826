// What a request asks for, in either protocol: a signature and a column of elements for each input.

#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>

#include "../bytes.h"
#include "../elements.h"
#include "../model.h"
#include "pictures.h"
#include "../reader.h"

namespace accelerator {

// The elements of one input, and the shape that they turn out to have.
struct Column {
    Bytes elements, text;
    std::string_view given;  // elements that stand in the body as they are, instead
    Dims dims;

    void begin(const Dims& declared) {
        elements.clear();
        text.clear();
        given = {};
        dims = declared;
    }
    [[nodiscard]] std::string_view data() const {
        return given.data() ? given : std::string_view(elements.data(), elements.size());
    }
    [[nodiscard]] size_t count(Type type) const {
        return data().size() / (type == Type::string ? sizeof(Part) : item_size(type));
    }
    [[nodiscard]] std::string_view string(size_t index) const {
        Part part;
        std::memcpy(&part, elements.data() + index * sizeof part, sizeof part);
        return {text.data() + part.start, part.size};
    }
};

template <typename T>
[[gnu::always_inline]] inline bool read_element(Reader& json, Column& /*column*/, T& value) {
    const auto number = json.number<T>();
    if (number) value = *number;
    return number.has_value();
}
inline bool read_element(Reader& json, Column& /*column*/, Flag& value) {
    const auto flag = json.flag();
    if (flag) value = static_cast<Flag>(*flag);
    return flag.has_value();
}
inline bool read_element(Reader& json, Column& /*column*/, Half& value) {
    const auto number = json.number<double>();
    const auto half = number ? to_half(*number) : std::nullopt;
    if (half) value = *half;
    return half.has_value();
}
inline bool read_element(Reader& json, Column& /*column*/, BFloat16& value) {
    const auto number = json.number<double>();
    const auto narrow = number ? to_bfloat16(*number) : std::nullopt;
    if (narrow) value = *narrow;
    return narrow.has_value();
}
inline bool read_element(Reader& json, Column& column, Part& part) {
    part.start = column.text.size();
    if (!json.string(column.text)) return false;
    part.size = column.text.size() - part.start;
    return true;
}

// The shape that is read: sizes that are -1 become those of the first list there.
struct Shape {
    size_t rank;
    Dims& dims;
};

// Reads the elements of an input: lists nested `rank - depth` deep, all of one shape.
template <typename T>
class Nest {
  public:
    Nest(Reader& json, Column& column, Shape shape, int64_t max_elements)
        : json_(json), column_(column), shape_(shape), max_elements_(static_cast<size_t>(max_elements)) {}

    Declined read(size_t depth) {
        if (depth == shape_.rank) return scalar();
        if (!json_.take('[')) return Decline::shape;
        int64_t count = 0;
        if (depth + 1 == shape_.rank) {
            if (Declined declined = innermost(count)) return declined;
        } else {
            do {
                if (Declined declined = read(depth + 1)) return declined;
                ++count;
            } while (json_.take(','));
        }
        if (!json_.take(']')) return Decline::json;
        int64_t& size = shape_.dims[depth];
        if (size < 0) size = count;
        return size == count ? Declined() : Decline::shape;
    }

  private:
    Declined scalar() {
        T value;
        if (!read_element(json_, column_, value)) return Decline::value;
        column_.elements.add_bytes_of(value);
        return within();
    }
    Declined innermost(int64_t& count) {
        do {
            T value;
            if (!read_element(json_, column_, value)) return Decline::value;
            column_.elements.add_bytes_of(value);
            ++count;
        } while (json_.take(','));
        return within();
    }
    [[nodiscard]] Declined within() const {
        if (!column_.elements.ok()) return Decline::memory;
        return column_.elements.size() / sizeof(T) <= max_elements_ ? Declined() : Decline::limit;
    }

    Reader& json_;
    Column& column_;
    const Shape shape_;
    const size_t max_elements_;
};

inline Declined read_nest(Reader& json, Type type, Column& column, Shape shape, size_t depth, int64_t max_elements) {
    return for_type(type, [&](auto element) {
        return Nest<decltype(element)>(json, column, shape, max_elements).read(depth);
    });
}

// A member whose reading depends on the signature, which may only be named behind it.
class Deferred {
  public:
    // Reads the value. Where that is declined it is passed over: it may be right for the signature that is named later.
    template <typename Read>
    Declined read(Reader& json, Read read) {
        start_ = end_ = json;
        declined_ = read(json);
        if (declined_) {
            json = *start_;
            if (!json.pass()) return declined_;
        }
        end_ = json;
        return {};
    }
    // Reads it again where it was there, by another signature.
    template <typename Read>
    void read_again(Read read) {
        if (!start_) return;
        Reader json = *start_;
        declined_ = read(json);
        if (!declined_ && !json.is_at(*end_)) declined_ = Decline::json;
    }
    [[nodiscard]] bool was_read() const { return start_.has_value(); }
    [[nodiscard]] Declined declined() const { return declined_; }

  private:
    std::optional<Reader> start_, end_;  // of the value
    Declined declined_;
};

// What a request asks for. The protocols' calls add their own wishes to it.
struct Call {
    const Signature* signature = nullptr;
    std::array<Column, MAX_TENSORS> columns;
    Call* next = nullptr;  // of the same run

    // Calls a signature; what was read of inputs by another one is dropped.
    void of(const Signature& called) {
        signature = &called;
        for (size_t index = 0; index < called.input_count; ++index) columns[index].begin(called.inputs[index].dims);
    }
    // Reads an input in its own shape, without its first `depth` dimensions.
    Declined read_input(Reader& json, size_t index, size_t depth, const Limits& limits) {
        const Input& input = signature->inputs[index];
        Column& column = columns[index];
        return read_nest(json, input.type, column, {input.rank, column.dims}, depth, limits.elements);
    }
    // The size of the batch, 1 where the first input has none.
    [[nodiscard]] int64_t rows() const {
        const Input& first = signature->inputs[0];
        return first.rank && first.dims[0] < 0 ? columns[0].dims[0] : 1;
    }
    // The rows of every input, 0 where they differ.
    [[nodiscard]] int64_t shared_rows() const {
        const int64_t rows = columns[0].dims[0];
        for (size_t index = 1; index < signature->input_count; ++index)
            if (columns[index].dims[0] != rows) return 0;
        return rows;
    }
    // Says whether the rows of both can stand in one tensor for each input.
    [[nodiscard]] bool joins(const Call& other) const {
        if (signature != other.signature) return false;
        for (size_t index = 0; index < signature->input_count; ++index)
            for (size_t axis = 1; axis < signature->inputs[index].rank; ++axis)
                if (columns[index].dims[axis] != other.columns[index].dims[axis]) return false;
        return true;
    }
    // Checks that there are as many elements as the shapes say.
    [[nodiscard]] Declined is_whole() const {
        for (size_t index = 0; index < signature->input_count; ++index) {
            const Input& input = signature->inputs[index];
            size_t count = 1;
            for (size_t axis = 0; axis < input.rank; ++axis)
                count *= static_cast<size_t>(columns[index].dims[axis]);
            if (count != columns[index].count(input.type)) return Decline::shape;
        }
        return {};
    }

  protected:
    [[nodiscard]] Declined within(const Limits& limits) const {
        int64_t elements = 0, pixels = 0;  // of all inputs together
        for (size_t index = 0; index < signature->input_count; ++index) {
            const Input& input = signature->inputs[index];
            const size_t count = columns[index].count(input.type);
            elements += static_cast<int64_t>(count);
            if (input.rank && columns[index].dims[0] > limits.rows) return Decline::limit;
            if (input.type != Type::string) continue;
            if (Declined declined = strings_within(columns[index], count, limits, pixels)) return declined;
        }
        return elements <= limits.elements ? Declined() : Decline::limit;
    }

  private:
    static Declined strings_within(const Column& column, size_t count, const Limits& limits, int64_t& total) {
        for (size_t index = 0; index < count; ++index) {
            const std::string_view string = column.string(index);
            if (string.size() > static_cast<size_t>(limits.string)) return Decline::limit;
            if (limits.pixels < 0) continue;
            const auto size = pixels(string);
            if (!size || *size > limits.pixels || (total += *size) > limits.pixels) return Decline::picture;
        }
        return {};
    }
};

}  // namespace accelerator
