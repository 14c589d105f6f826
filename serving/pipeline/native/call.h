// What a request asks for, in either protocol: columns, one an input.

#pragma once

#include <cstdint>
#include <cstring>

#include "bytes.h"
#include "reader.h"
#include "tensorflow.h"

namespace accelerator {

struct Input {
    Text name, datatype;  // what the Open Inference Protocol calls the type
    int type = 0;
    int rank = 0;
    int64_t dims[MAX_RANK];  // -1: any
};

struct Output {
    Text name, key, datatype;  // the key: the name as JSON, with quotes and colon
    int type = 0;
    bool as_bytes = false;  // strings are written in base64, whatever is in them
};

struct Signature {
    Text name;
    int inputs = 0, outputs = 0;
    Input input[MAX_TENSORS];
    Output output[MAX_TENSORS];
    TF_Output feeds[MAX_TENSORS], fetches[MAX_TENSORS];
};

// The signature of a name, nullptr where there is none.
const Signature* find(const Signature* signatures, int count, const Text& name) {
    for (int place = 0; place < count; ++place)
        if (signatures[place].name.is(name)) return signatures + place;
    return nullptr;
}

// A string, as a part of the column's text.
struct Part {
    size_t start, size;
};

// One input on its way: its elements, and the shape that they turn out to have.
struct Column {
    Bytes elements, text;
    const char* given = nullptr;  // those that stand in the body as they are
    size_t given_size = 0;
    int64_t dims[MAX_RANK];

    const char* data() { return given ? given : elements.data(); }
    size_t size() { return given ? given_size : elements.size(); }
    int64_t count(int type) { return static_cast<int64_t>(size() / (type == STRING ? sizeof(Part) : item_size(type))); }
    Part part(int64_t index) {
        Part found;
        std::memcpy(&found, elements.data() + static_cast<size_t>(index) * sizeof found, sizeof found);
        return found;
    }
};

struct Limits {
    int64_t rows, elements, id, string, pixels;  // pixels: negative where strings are no pictures
};

template <typename T>
bool element(Reader& json, Column&, T& value) {
    return json.number(value);
}

bool element(Reader& json, Column& column, Part& value) {
    value.start = column.text.size();
    if (!json.string(column.text)) return false;
    value.size = column.text.size() - value.start;
    return true;
}

// Takes lists nested `rank - depth` deep, with numbers at the bottom, all of one shape; an unknown size is that of the
// first list there.
template <typename T>
bool nest(Reader& json, const Input& input, Column& column, int depth, int64_t most) {
    if (depth == input.rank) {
        T value;
        if (!element(json, column, value)) return false;
        column.elements.add(reinterpret_cast<const char*>(&value), sizeof value);
        return column.elements.ok() && column.elements.size() / sizeof(T) <= static_cast<size_t>(most);
    }
    if (!json.take('[')) return false;
    int64_t count = 0, &size = column.dims[depth];
    if (depth + 1 == input.rank) {  // the innermost list, without a call for each number
        do {
            T value;
            char* place = column.elements.room(sizeof value);
            if (!place || !element(json, column, value)) return false;
            std::memcpy(place, &value, sizeof value);
            column.elements.used(sizeof value);
            ++count;
        } while (json.take(','));
        if (column.elements.size() / sizeof(T) > static_cast<size_t>(most)) return false;
    } else {
        do {
            if (!nest<T>(json, input, column, depth + 1, most)) return false;
            ++count;
        } while (json.take(','));
    }
    if (!json.take(']')) return false;
    if (size < 0) size = count;
    return size == count;
}

bool nest(Reader& json, const Input& input, Column& column, int depth, int64_t most) {
    switch (input.type) {
        case FLOAT: return nest<float>(json, input, column, depth, most);
        case DOUBLE: return nest<double>(json, input, column, depth, most);
        case INT8: return nest<int8_t>(json, input, column, depth, most);
        case INT16: return nest<int16_t>(json, input, column, depth, most);
        case INT32: return nest<int32_t>(json, input, column, depth, most);
        case INT64: return nest<int64_t>(json, input, column, depth, most);
        case UINT8: return nest<uint8_t>(json, input, column, depth, most);
        case UINT16: return nest<uint16_t>(json, input, column, depth, most);
        case UINT32: return nest<uint32_t>(json, input, column, depth, most);
        case UINT64: return nest<uint64_t>(json, input, column, depth, most);
        case STRING: return nest<Part>(json, input, column, depth, most);
        default: return false;
    }
}

// How many pixels a picture says that it has: what serving/savedmodel/images.py reads, of the two commonest formats. -1: another.
int64_t pixels(const char* text, size_t size) {
    const auto* data = reinterpret_cast<const unsigned char*>(text);
    const auto begins = [&](const char* with, size_t length) {
        return size >= length && !std::memcmp(text, with, length);
    };
    const auto number = [&](size_t at, int bytes) {
        int64_t value = 0;
        for (int index = 0; index < bytes; ++index) value = value << 8 | data[at + static_cast<size_t>(index)];
        return value;
    };
    if (begins("\x89PNG\r\n\x1a\n", 8)) {
        if (size < 24) return 0;
        const int64_t width = number(16, 4), height = number(20, 4);
        return width >> 31 || height >> 31 ? -1 : width * height;
    }
    if (begins("\xff\xd8", 2)) {
        size_t at = 2;
        for (int block = 0; block < 4096; ++block) {
            while (at < size && data[at] != 0xff) ++at;
            while (at < size && data[at] == 0xff) ++at;
            if (at >= size) return 0;
            const unsigned char marker = data[at++];
            if (marker <= 0x01 || (marker >= 0xd0 && marker <= 0xd8)) continue;  // no length behind it
            if (marker == 0xd9 || marker == 0xda) return 0;
            const bool frame = marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc;
            if (frame) return size - at < 7 ? 0 : number(at + 3, 2) * number(at + 5, 2);
            if (size - at < 2) return 0;
            at += static_cast<size_t>(number(at, 2));
        }
        return -1;
    }
    if (begins("\xff\x0a", 2) || begins("\0\0\0\x0cJXL ", 8)) return -1;
    return begins("GIF", 3) || begins("BM", 2) || begins("RIFF", 4) ? -1 : 0;
}

// What a request asks for.
class Call {
  public:
    const Signature* signature = nullptr;
    Column columns[MAX_TENSORS];

    void of(const Signature& one) {
        signature = &one;
        for (int place = 0; place < one.inputs; ++place)
            std::memcpy(columns[place].dims, one.input[place].dims, sizeof columns[place].dims);
    }
    // The input of a name, -1 where there is none.
    int find(const Text& name) const {
        for (int place = 0; place < signature->inputs; ++place)
            if (signature->input[place].name.is(name)) return place;
        return -1;
    }
    bool within(const Limits& limits) {
        int64_t elements = 0, pixels = 0;  // of all inputs together
        for (int place = 0; place < signature->inputs; ++place) {
            const Input& input = signature->input[place];
            const int64_t count = columns[place].count(input.type);
            elements += count;
            if (input.rank && columns[place].dims[0] > limits.rows) return false;
            if (input.type == STRING && !strings_within(columns[place], count, limits, pixels)) return false;
        }
        return elements <= limits.elements;
    }

  private:
    static bool strings_within(Column& column, int64_t count, const Limits& limits, int64_t& total) {
        for (int64_t index = 0; index < count; ++index) {
            const Part part = column.part(index);
            if (part.size > static_cast<size_t>(limits.string)) return false;
            if (limits.pixels < 0) continue;
            const int64_t one = pixels(column.text.data() + part.start, part.size);
            if (one < 0 || one > limits.pixels || (total += one) > limits.pixels) return false;
        }
        return true;
    }
};

}  // namespace accelerator
