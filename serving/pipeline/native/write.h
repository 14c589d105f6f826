// Outputs as JSON, in the very bytes that orjson writes, and in binary.

#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string_view>
#include <type_traits>

#include "bytes.h"
#include "elements.h"
#include "model.h"

namespace accelerator {

// As orjson writes a number, or as Python's json does, which has another exponent.
enum class Style : uint8_t { orjson, python };

// The decimal digits of a positive number, of which the first `point` stand before its point.
struct Digits {
    const char* digits;
    int count, point;

    // 12.5 or 12.0, where 0 < point
    char* plain(char* to) const {
        for (int index = 0; index < point; ++index) *to++ = index < count ? digits[index] : '0';
        *to++ = '.';
        if (count <= point) *to++ = '0';
        return from(point, to);
    }
    // 0.00125, where point <= 0
    char* fraction(char* to) const {
        *to++ = '0';
        *to++ = '.';
        for (int index = point; index < 0; ++index) *to++ = '0';
        return from(0, to);
    }
    // 1.25e-7
    char* scientific(char* to, Style style) const {
        const int exponent = point - 1;
        *to++ = digits[0];
        if (count > 1) *to++ = '.';
        to = from(1, to);
        *to++ = 'e';
        *to++ = exponent < 0 ? '-' : '+';
        const int size = std::abs(exponent);
        if (style == Style::python && size < 10) *to++ = '0';
        return std::to_chars(to, to + 4, size).ptr;
    }

  private:
    char* from(int index, char* to) const {
        for (; index < count; ++index) *to++ = digits[index];
        return to;
    }
};

// From which power of ten to which a number is written without an exponent.
template <typename T>
constexpr int least_point(Style style) {
    if (style == Style::python) return -3;
    return sizeof(T) == 4 ? -5 : -4;
}
template <typename T>
constexpr int greatest_point(Style style) {
    return style == Style::orjson && sizeof(T) == 4 ? 13 : 16;
}

template <typename T>
void add_float(Bytes& json, T value, Style style) {
    char* to = json.room(40);
    if (!to) return;
    if (std::signbit(value)) *to++ = '-';
    if (value == 0) {
        json.end_at(to);
        return json.add("0.0");
    }
    std::array<char, 32> written;  // d.ddde±dd, the shortest digits that are read back as this number
    const char* const end = std::to_chars(written.data(), written.data() + written.size(), std::fabs(value),
                                          std::chars_format::scientific)
                                .ptr;
    const char* const e = end[-4] == 'e' ? end - 4 : end - 5;  // two digits or three
    int exponent = 0;
    for (const char* digit = e + 2; digit != end; ++digit) exponent = exponent * 10 + (*digit - '0');
    if (e[1] == '-') exponent = -exponent;
    const int count = std::max(1, static_cast<int>(e - written.data()) - 1);
    written[1] = written[0];  // in the place of the point
    const Digits digits{written.data() + 1, count, exponent + 1};
    if (digits.point > greatest_point<T>(style) || digits.point < least_point<T>(style))
        to = digits.scientific(to, style);
    else
        to = digits.point > 0 ? digits.plain(to) : digits.fraction(to);
    json.end_at(to);
}

template <typename T>
void add_number(Bytes& json, T value, Style style, bool null) {
    if constexpr (std::is_same_v<T, Flag>) {
        json.add(value == Flag{} ? "false" : "true");
    } else if constexpr (is_short_float<T>) {
        add_number(json, widened(value), style, null);
    } else if constexpr (std::is_floating_point_v<T>) {
        if (std::isfinite(value))
            add_float(json, value, style);
        else if (null)
            json.add("null");
        else if (std::isnan(value))
            json.add("NaN");
        else
            json.add(value > 0 ? "Infinity" : "-Infinity");
    } else if (char* const to = json.room(24)) {
        json.end_at(std::to_chars(to, to + 24, value).ptr);
    }
}

inline void add_size(Bytes& json, int64_t size) { add_number(json, size, Style::orjson, false); }

inline void add_base64(Bytes& json, std::string_view data) {
    json.add(R"({"b64":")");
    char* to = json.room((data.size() + 2) / 3 * 4);
    if (!to) return;
    const auto byte = [&](size_t at) { return static_cast<uint32_t>(static_cast<unsigned char>(data[at])); };
    for (size_t at = 0; at < data.size(); at += 3) {
        const bool second = at + 1 < data.size(), third = at + 2 < data.size();
        const uint32_t bits = byte(at) << 16 | (second ? byte(at + 1) << 8 : 0) | (third ? byte(at + 2) : 0);
        *to++ = BASE64_ALPHABET[bits >> 18];
        *to++ = BASE64_ALPHABET[bits >> 12 & 63];
        *to++ = second ? BASE64_ALPHABET[bits >> 6 & 63] : '=';
        *to++ = third ? BASE64_ALPHABET[bits & 63] : '=';
    }
    json.end_at(to);
    json.add(R"("})");
}

// Says whether it is UTF-8.
inline bool is_text(std::string_view text) {
    for (size_t at = 0; at < text.size();) {
        if (static_cast<signed char>(text[at]) >= 0) {
            ++at;
            continue;
        }
        std::array<char, 4> padded{};  // of what follows the last character nothing is known
        std::memcpy(padded.data(), text.data() + at, std::min(text.size() - at, padded.size()));
        const int length = utf8_size(padded.data());
        if (!length) return false;
        at += static_cast<size_t>(length);
    }
    return true;
}

inline void add_escaped(Bytes& json, unsigned char byte) {
    constexpr std::string_view HEX = "0123456789abcdef";
    json.add('\\');
    switch (byte) {
        case '\b': json.add('b'); break;
        case '\f': json.add('f'); break;
        case '\n': json.add('n'); break;
        case '\r': json.add('r'); break;
        case '\t': json.add('t'); break;
        case '"':
        case '\\': json.add(static_cast<char>(byte)); break;
        default:
            json.add("u00");
            json.add(HEX[byte >> 4]);
            json.add(HEX[byte & 15]);
    }
}

inline void add_text(Bytes& json, std::string_view text) {
    json.add('"');
    size_t from = 0;
    for (size_t at = 0; at < text.size(); ++at) {
        const auto byte = static_cast<unsigned char>(text[at]);
        if (byte >= 0x20 && byte != '"' && byte != '\\') continue;
        json.add(text.substr(from, at - from));
        from = at + 1;
        add_escaped(json, byte);
    }
    json.add(text.substr(from));
    json.add('"');
}

}  // namespace accelerator
