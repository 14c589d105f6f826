// The types of elements that are read and written here.

#pragma once

#include <cstddef>
#include <cstdint>

namespace accelerator {

// With the numbers of TF_DataType, tensorflow/c/tf_datatype.h.
enum class Type : int {
    float32 = 1,
    float64 = 2,
    int32 = 3,
    uint8 = 4,
    int16 = 5,
    int8 = 6,
    string = 7,
    int64 = 9,
    boolean = 10,
    bfloat16 = 14,
    uint16 = 17,
    half = 19,
    uint32 = 22,
    uint64 = 23,
};

constexpr size_t STRING_SIZE = 24;  // sizeof(TF_TString), tf_tstring.h

// The bytes of an element, 0 for a type that is none of the above.
constexpr size_t item_size(Type type) {
    switch (type) {
        case Type::int8:
        case Type::uint8:
        case Type::boolean: return 1;
        case Type::int16:
        case Type::uint16:
        case Type::half:
        case Type::bfloat16: return 2;
        case Type::float32:
        case Type::int32:
        case Type::uint32: return 4;
        case Type::float64:
        case Type::int64:
        case Type::uint64: return 8;
        case Type::string: return STRING_SIZE;
    }
    return 0;
}

}  // namespace accelerator
