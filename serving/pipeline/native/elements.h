// The types of elements: those that C++ has none of its own for, and the choice of one by TensorFlow's number.

#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <type_traits>

#include "types.h"

namespace accelerator {

// A string, as a part of a column's text.
struct Part {
    size_t start, size;
};
enum class Flag : uint8_t {};
struct Half {  // IEEE 754's binary16
    uint16_t bits;
};
struct BFloat16 {  // the upper half of a float
    uint16_t bits;
};

template <typename T>
constexpr bool is_short_float = std::is_same_v<T, Half> || std::is_same_v<T, BFloat16>;
template <typename T>
constexpr bool is_float = std::is_floating_point_v<T> || is_short_float<T>;

// The half next to a number, as NumPy rounds it: once, to even. Nothing where that is infinite.
inline std::optional<Half> to_half(double value) {
    constexpr double SMALLEST_NORMAL = 0x1p-14, SUBNORMALS = 0x1p24;  // in units of the least one
    constexpr unsigned INFINITE = 0x7c00;
    const double size = std::fabs(value);
    unsigned bits;
    if (size < SMALLEST_NORMAL) {
        bits = static_cast<unsigned>(std::nearbyint(size * SUBNORMALS));
    } else if (size >= 0x1p16) {
        return std::nullopt;
    } else {
        int exponent;
        const double mantissa = std::nearbyint(std::ldexp(std::frexp(size, &exponent), 11));  // 1024 to 2048
        bits = static_cast<unsigned>((exponent + 13) << 10) + static_cast<unsigned>(mantissa);
    }
    if (bits >= INFINITE) return std::nullopt;
    return Half{static_cast<uint16_t>(bits | (std::signbit(value) ? 0x8000U : 0U))};
}

// The bfloat16 next to a number, as ml_dtypes rounds it: to a float first. Nothing where that is infinite.
inline std::optional<BFloat16> to_bfloat16(double value) {
    const auto narrow = static_cast<float>(value);
    uint32_t bits;
    std::memcpy(&bits, &narrow, sizeof bits);
    bits += 0x7fffU + (bits >> 16 & 1U);
    if ((bits & 0x7f800000U) == 0x7f800000U) return std::nullopt;
    return BFloat16{static_cast<uint16_t>(bits >> 16)};
}

inline float widened(Half half) {
    const unsigned exponent = half.bits >> 10 & 31U, mantissa = half.bits & 1023U;
    float value;
    if (exponent == 31)
        value = mantissa ? NAN : INFINITY;
    else if (exponent)
        value = std::ldexp(static_cast<float>(mantissa + 1024), static_cast<int>(exponent) - 25);
    else
        value = static_cast<float>(mantissa) * 0x1p-24F;
    return half.bits & 0x8000U ? -value : value;
}
inline float widened(BFloat16 value) {
    const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
    float wide;
    std::memcpy(&wide, &bits, sizeof wide);
    return wide;
}
template <typename T>
constexpr T widened(T value) {
    return value;
}

// The element at an address, which may be unaligned.
template <typename T>
T element_at(const char* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

// Calls the function with an element of the type; its return type is that for the first of them.
template <typename Function>
auto for_type(Type type, Function function) {
    // NOLINTBEGIN(bugprone-branch-clone): the branches differ in the type of the element
    switch (type) {
        case Type::float32: return function(float());
        case Type::float64: return function(double());
        case Type::half: return function(Half());
        case Type::bfloat16: return function(BFloat16());
        case Type::int8: return function(int8_t());
        case Type::int16: return function(int16_t());
        case Type::int32: return function(int32_t());
        case Type::int64: return function(int64_t());
        case Type::uint8: return function(uint8_t());
        case Type::uint16: return function(uint16_t());
        case Type::uint32: return function(uint32_t());
        case Type::uint64: return function(uint64_t());
        case Type::boolean: return function(Flag());
        case Type::string: break;
    }
    // NOLINTEND(bugprone-branch-clone)
    return function(Part());
}

}  // namespace accelerator
