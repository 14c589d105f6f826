// JSON, read strictly. Every function returns false where it declines.

#pragma once

#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "bytes.h"

namespace accelerator {

const double POWERS[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                         1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

// No step asks for the end: what follows the text belongs to the same bytes object, which ends with a zero, and whoever
// has read a whole text asks whether that was its end.
class Reader {
  public:
    Reader(const char* start, size_t size) : at_(start), end_(start + size) {}

    // Skips white space and takes `wanted` if it is next.
    bool take(char wanted) {
        skip();
        if (*at_ != wanted) return false;
        ++at_;
        return true;
    }
    bool next_is(char wanted) {
        skip();
        return *at_ == wanted;
    }
    // What follows the text may look like white space.
    bool at_end() {
        while (at_ < end_ && is_space(*at_)) ++at_;
        return at_ == end_;
    }

    bool flag(bool& found) {
        skip();
        found = *at_ == 't';
        const size_t size = found ? 4 : 5;
        if (std::strncmp(at_, found ? "true" : "false", size) != 0) return false;
        at_ += size;
        return true;
    }

    // Takes a string without escapes, of ASCII; of any other it would have to be told whether it is UTF-8.
    bool text(Text& found) {
        if (!take('"')) return false;
        const char* start = at_;
        for (; *at_ != '"'; ++at_)
            if (*at_ == '\\' || static_cast<signed char>(*at_) < 0x20) return false;
        found = {start, static_cast<size_t>(at_ - start)};
        ++at_;
        return true;
    }

    // Appends a string's bytes: text, or {"b64": "…"}.
    bool string(Bytes& bytes) {
        skip();
        if (*at_ == '"') return unescaped(bytes);
        Text key, base64;
        return take('{') && text(key) && key.is("b64") && take(':') && text(base64) && decoded(base64, bytes) &&
               take('}');
    }
    // Says whether an object of base64 is next, and no object of named values.
    bool next_is_base64() const {
        Reader ahead = *this;
        Text key;
        return ahead.take('{') && ahead.text(key) && key.is("b64") && ahead.take(':') && ahead.next_is('"');
    }

    template <typename T>
    bool number(T& found) {
        skip();
        const char* const start = at_;
        const char* at = start;
        const bool negative = *at == '-';
        if (negative) ++at;
        const char* const digits = at;
        uint64_t mantissa = 0;
        while (is_digit(*at)) mantissa = mantissa * 10 + static_cast<uint64_t>(*at++ - '0');
        int64_t count = at - digits, exponent = 0;
        if (count == 0 || (count > 1 && *digits == '0')) return false;
        bool whole = true;
        if (*at == '.') {
            whole = false;
            const char* const decimals = ++at;
            while (is_digit(*at)) mantissa = mantissa * 10 + static_cast<uint64_t>(*at++ - '0');
            if (at == decimals) return false;
            count += at - decimals;
            exponent = decimals - at;
        }
        if (*at == 'e' || *at == 'E') {
            whole = false;
            ++at;
            const bool down = *at == '-';
            if (down || *at == '+') ++at;
            int64_t power = 0;
            const char* const first = at;
            for (; is_digit(*at); ++at)
                if (power < 100000) power = power * 10 + (*at - '0');
            if (at == first) return false;
            exponent += down ? -power : power;
        }
        at_ = at;
        if (whole) return count <= 18 && store(negative, mantissa, found);  // of more, some are beyond 64 bits
        double value;
        // Both numbers are doubles themselves then, and one operation rounds once - Clinger 1990.
        if (count <= 19 && mantissa <= uint64_t{1} << 53 && exponent >= -22 && exponent <= 22) {
            value = static_cast<double>(mantissa);
            value = exponent < 0 ? value / POWERS[-exponent] : value * POWERS[exponent];
            if (negative) value = -value;
        } else {
            const auto read = std::from_chars(start, at, value);
            if (read.ec != std::errc() || read.ptr != at) return false;
        }
        if constexpr (std::is_floating_point_v<T>) {
            found = static_cast<T>(value);
            return std::isfinite(found);
        } else {
            return store_whole(value, found);
        }
    }

  private:
    void skip() {
        while (is_space(*at_)) ++at_;
    }
    static bool is_space(char one) { return one == ' ' || one == '\n' || one == '\t' || one == '\r'; }
    static bool is_digit(char one) { return one >= '0' && one <= '9'; }

    bool unescaped(Bytes& bytes) {
        const char* start = ++at_;
        while (true) {
            const unsigned char one = static_cast<unsigned char>(*at_);
            if (one == '"' || one == '\\') {
                bytes.add(start, static_cast<size_t>(at_ - start));
                ++at_;
                if (one == '"') return bytes.ok();
                if (!escape(bytes)) return false;
                start = at_;
            } else if (one < 0x20) {
                return false;
            } else if (one < 0x80) {
                ++at_;
            } else {
                const int size = utf8(at_);
                if (!size) return false;
                at_ += size;
            }
        }
    }

    bool escape(Bytes& bytes) {
        switch (*at_++) {
            case '"': bytes.add('"'); return true;
            case '\\': bytes.add('\\'); return true;
            case '/': bytes.add('/'); return true;
            case 'b': bytes.add('\b'); return true;
            case 'f': bytes.add('\f'); return true;
            case 'n': bytes.add('\n'); return true;
            case 'r': bytes.add('\r'); return true;
            case 't': bytes.add('\t'); return true;
            case 'u': break;
            default: return false;
        }
        uint32_t code, low;
        if (!hex(code)) return false;
        if (code >= 0xd800 && code < 0xe000) {  // half a pair, and the other half
            if (code >= 0xdc00 || *at_ != '\\' || at_[1] != 'u') return false;
            at_ += 2;
            if (!hex(low) || low < 0xdc00 || low >= 0xe000) return false;
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        }
        const auto part = [](uint32_t value) { return static_cast<char>(value); };
        if (code < 0x80) {
            bytes.add(part(code));
        } else if (code < 0x800) {
            bytes.add(part(0xc0 | code >> 6));
        } else {
            if (code < 0x10000) {
                bytes.add(part(0xe0 | code >> 12));
            } else {
                bytes.add(part(0xf0 | code >> 18));
                bytes.add(part(0x80 | (code >> 12 & 0x3f)));
            }
            bytes.add(part(0x80 | (code >> 6 & 0x3f)));
        }
        if (code >= 0x80) bytes.add(part(0x80 | (code & 0x3f)));
        return true;
    }

    bool hex(uint32_t& code) {
        code = 0;
        for (int count = 0; count < 4; ++count, ++at_) {
            const char one = *at_;
            const int digit = is_digit(one)              ? one - '0'
                              : one >= 'a' && one <= 'f' ? one - 'a' + 10
                              : one >= 'A' && one <= 'F' ? one - 'A' + 10
                                                         : -1;
            if (digit < 0) return false;
            code = code << 4 | static_cast<uint32_t>(digit);
        }
        return true;
    }

    // The standard alphabet in full; serving/ takes more.
    static bool decoded(const Text& base64, Bytes& bytes) {
        if (base64.size % 4) return false;
        size_t size = base64.size;
        while (size && base64.size - size < 2 && base64.start[size - 1] == '=') --size;
        char* place = bytes.room(base64.size / 4 * 3 + 1);
        if (!place) return false;
        char* const first = place;
        uint32_t bits = 0;
        unsigned wrong = 0;
        for (size_t index = 0; index < size; ++index) {
            const uint8_t value = BASE64[static_cast<unsigned char>(base64.start[index])];
            wrong |= value;
            bits = bits << 6 | value;
            if (index % 4) *place++ = static_cast<char>(bits >> (6 - index % 4 * 2) & 0xff);
        }
        bytes.used(static_cast<size_t>(place - first));
        return wrong < 64;
    }

    template <typename T>
    static bool store(bool negative, uint64_t magnitude, T& found) {
        const int64_t value = negative ? -static_cast<int64_t>(magnitude) : static_cast<int64_t>(magnitude);
        if constexpr (std::is_floating_point_v<T>) {
            found = static_cast<T>(static_cast<double>(value));  // in two steps, as serving/ does
            return true;
        } else if constexpr (std::is_unsigned_v<T>) {
            found = static_cast<T>(magnitude);
            return value >= 0 && magnitude <= std::numeric_limits<T>::max();
        } else {
            found = static_cast<T>(value);
            return value >= std::numeric_limits<T>::min() && value <= std::numeric_limits<T>::max();
        }
    }

    // 3.0 is an integer: protobuf's JSON, as Vertex AI sends it, has doubles alone.
    template <typename T>
    static bool store_whole(double value, T& found) {
        const double past = std::ldexp(1.0, std::numeric_limits<T>::digits);  // the type's largest value, and one more
        if (std::trunc(value) != value || value >= past || value < (std::is_signed_v<T> ? -past : 0.0)) return false;
        found = static_cast<T>(value);
        return true;
    }

    const char *at_, *end_;
};

}  // namespace accelerator
