// Outputs as JSON, in the very bytes that orjson writes, and in binary.

#pragma once

#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "bytes.h"
#include "tensorflow.h"

namespace accelerator {

// As orjson writes a number, or as Python's json does, which has another exponent.
enum Style { SHORT, PYTHON };

enum class Flag : uint8_t {};  // an element of a bool tensor

template <typename T>
void add_float(Bytes& json, T value, Style style) {
    char* place = json.room(40);
    if (!place) return;
    char* const first = place;
    if (std::signbit(value)) *place++ = '-';
    if (value == 0) {
        std::memcpy(place, "0.0", 3);
        json.used(static_cast<size_t>(place + 3 - first));
        return;
    }
    char written[32];  // d.ddde±dd, the shortest digits that are read back as this number
    char* end = std::to_chars(written, written + sizeof written, std::fabs(value), std::chars_format::scientific).ptr;
    char digits[24];
    int count = 0;
    char* from = written;
    for (; from != end && *from != 'e'; ++from)
        if (*from != '.') digits[count++] = *from;
    int exponent = 0;
    if (from + 2 < end) std::from_chars(from + (from[1] == '+' ? 2 : 1), end, exponent);
    const int point = exponent + 1;
    const int least = style == PYTHON ? -3 : sizeof(T) == 4 ? -5 : -4;
    const int most = style == PYTHON ? 16 : sizeof(T) == 4 ? 13 : 16;
    if (point > 0 && point <= most) {
        for (int index = 0; index < point; ++index) *place++ = index < count ? digits[index] : '0';
        *place++ = '.';
        if (count <= point) *place++ = '0';
        for (int index = point; index < count; ++index) *place++ = digits[index];
    } else if (point <= 0 && point >= least) {
        *place++ = '0';
        *place++ = '.';
        for (int index = point; index < 0; ++index) *place++ = '0';
        for (int index = 0; index < count; ++index) *place++ = digits[index];
    } else {
        *place++ = digits[0];
        if (count > 1) *place++ = '.';
        for (int index = 1; index < count; ++index) *place++ = digits[index];
        *place++ = 'e';
        *place++ = exponent < 0 ? '-' : '+';
        const int size = std::abs(exponent);
        if (style == PYTHON && size < 10) *place++ = '0';
        place = std::to_chars(place, place + 4, size).ptr;
    }
    json.used(static_cast<size_t>(place - first));
}

template <typename T>
void add_number(Bytes& json, T value, Style style, bool null) {
    if constexpr (std::is_same_v<T, Flag>) {
        json.add(value == Flag{} ? "false" : "true");
    } else if constexpr (std::is_floating_point_v<T>) {
        if (std::isfinite(value))
            add_float(json, value, style);
        else if (null)
            json.add("null");
        else if (std::isnan(value))
            json.add("NaN");
        else
            json.add(value > 0 ? "Infinity" : "-Infinity");
    } else if (char* place = json.room(24)) {
        json.used(static_cast<size_t>(std::to_chars(place, place + 24, value).ptr - place));
    }
}

void add_base64(Bytes& json, const char* start, size_t size) {
    const auto* data = reinterpret_cast<const unsigned char*>(start);
    json.add("{\"b64\":\"");
    char* place = json.room((size + 2) / 3 * 4);
    if (!place) return;
    char* const first = place;
    for (size_t at = 0; at < size; at += 3) {
        const uint32_t bits = static_cast<uint32_t>(data[at]) << 16 |
                              (at + 1 < size ? static_cast<uint32_t>(data[at + 1]) << 8 : 0) |
                              (at + 2 < size ? data[at + 2] : 0u);
        *place++ = ALPHABET[bits >> 18];
        *place++ = ALPHABET[bits >> 12 & 63];
        *place++ = at + 1 < size ? ALPHABET[bits >> 6 & 63] : '=';
        *place++ = at + 2 < size ? ALPHABET[bits & 63] : '=';
    }
    json.used(static_cast<size_t>(place - first));
    json.add("\"}");
}

// Says whether it is UTF-8.
bool is_text(const char* start, size_t size) {
    for (size_t at = 0; at < size;) {
        if (static_cast<signed char>(start[at]) >= 0) {
            ++at;
            continue;
        }
        char padded[4] = {};  // of what follows the last character nothing is known
        std::memcpy(padded, start + at, size - at < 4 ? size - at : 4);
        const int length = utf8(padded);
        if (!length) return false;
        at += static_cast<size_t>(length);
    }
    return true;
}

void add_text(Bytes& json, const char* start, size_t size) {
    json.add('"');
    size_t from = 0;
    for (size_t at = 0; at < size; ++at) {
        const unsigned char one = static_cast<unsigned char>(start[at]);
        if (one >= 0x20 && one != '"' && one != '\\') continue;
        json.add(start + from, at - from);
        from = at + 1;
        json.add('\\');
        switch (one) {
            case '\b': json.add('b'); break;
            case '\f': json.add('f'); break;
            case '\n': json.add('n'); break;
            case '\r': json.add('r'); break;
            case '\t': json.add('t'); break;
            case '"':
            case '\\': json.add(static_cast<char>(one)); break;
            default:
                json.add("u00");
                json.add("0123456789abcdef"[one >> 4]);
                json.add("0123456789abcdef"[one & 15]);
        }
    }
    json.add(start + from, size - from);
    json.add('"');
}

// One output of a run. Numbers of a tensor that has one which is not finite are written as Python's json does.
struct Result {
    const char* data = nullptr;
    int type = 0, rank = 0;
    int64_t dims[MAX_RANK];
    int64_t step = 0;  // elements of a row
    int64_t bytes = 0;
    const Library* tf = nullptr;
    bool as_bytes = false, all_text = true;  // of strings
    Style style = SHORT;

    template <typename T>
    bool all_finite(int64_t count) const {
        for (int64_t index = 0; index < count; ++index) {
            T value;
            std::memcpy(&value, data + index * static_cast<int64_t>(sizeof value), sizeof value);
            if (!std::isfinite(value)) return false;
        }
        return true;
    }

    Text string(const char* from) const { return {tf->string_data(from), tf->string_size(from)}; }

    const char* add_strings(Bytes& json, const char* from, int depth) const {
        if (depth == rank) {
            const Text text = string(from);
            if (as_bytes || (!all_text && !is_text(text.start, text.size)))
                add_base64(json, text.start, text.size);
            else
                add_text(json, text.start, text.size);
            return from + item_size(STRING);
        }
        json.add('[');
        for (int64_t index = 0; index < dims[depth]; ++index) {
            if (index) json.add(',');
            from = add_strings(json, from, depth + 1);
        }
        json.add(']');
        return from;
    }

    // The size of strings, each behind its length in 4 bytes.
    int64_t lengths() const {
        int64_t size = 0;
        for (const char* from = data; from < data + bytes; from += item_size(STRING))
            size += 4 + static_cast<int64_t>(string(from).size);
        return size;
    }

    void add_binary(Bytes& body) const {
        if (type != STRING) return body.add(data, static_cast<size_t>(bytes));
        for (const char* from = data; from < data + bytes; from += item_size(STRING)) {
            const Text text = string(from);
            const auto length = static_cast<uint32_t>(text.size);
            body.add(reinterpret_cast<const char*>(&length), sizeof length);
            body.add(text);
        }
    }

    template <typename T>
    const char* add_nest(Bytes& json, const char* from, int depth, bool null) const {
        if (depth == rank) {
            T value;
            std::memcpy(&value, from, sizeof value);
            add_number(json, value, style, null);
            return from + sizeof value;
        }
        json.add('[');
        for (int64_t index = 0; index < dims[depth]; ++index) {
            if (index) json.add(',');
            from = add_nest<T>(json, from, depth + 1, null);
        }
        json.add(']');
        return from;
    }

    void add_flat(Bytes& json, bool null) {
        dims[0] = bytes / static_cast<int64_t>(item_size(type));
        rank = 1;
        add(json, 0, 0, null);
    }

    void add(Bytes& json, int depth, int64_t row, bool null) const {
        const char* from = data + row * step * static_cast<int64_t>(item_size(type));
        switch (type) {
            case FLOAT: add_nest<float>(json, from, depth, null); break;
            case DOUBLE: add_nest<double>(json, from, depth, null); break;
            case INT8: add_nest<int8_t>(json, from, depth, null); break;
            case INT16: add_nest<int16_t>(json, from, depth, null); break;
            case INT32: add_nest<int32_t>(json, from, depth, null); break;
            case INT64: add_nest<int64_t>(json, from, depth, null); break;
            case UINT8: add_nest<uint8_t>(json, from, depth, null); break;
            case UINT16: add_nest<uint16_t>(json, from, depth, null); break;
            case UINT32: add_nest<uint32_t>(json, from, depth, null); break;
            case UINT64: add_nest<uint64_t>(json, from, depth, null); break;
            case BOOL: add_nest<Flag>(json, from, depth, null); break;
            case STRING: add_strings(json, from, depth); break;
            default: break;
        }
    }
};

}  // namespace accelerator
