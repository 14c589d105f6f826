// LiteRT's C API: litert/c/litert_compiled_model.h, litert_tensor_buffer.h, litert_layout.h, litert_model_types.h. The
// layout of the structures is part of it.

#pragma once

#include <dlfcn.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "../types.h"

namespace accelerator {

struct LiteRtEnvironment;
struct LiteRtModel;
struct LiteRtOptions;
struct LiteRtCompiledModel;
struct LiteRtTensorBuffer;

constexpr size_t LITERT_MAX_RANK = 8;  // LITERT_TENSOR_MAX_RANK

struct LiteRtLayout {
    unsigned int rank : 7, has_strides : 1;
    std::array<int32_t, LITERT_MAX_RANK> dimensions;
    std::array<uint32_t, LITERT_MAX_RANK> strides;
};
static_assert(sizeof(LiteRtLayout) == 68);

struct LiteRtTensorType {
    int element_type;
    LiteRtLayout layout;
};
static_assert(sizeof(LiteRtTensorType) == 72);

// LiteRtElementType; 0 for types that no model for LiteRT is run with here.
constexpr int litert_type(Type type) {
    switch (type) {
        case Type::float32: return 1;
        case Type::int32: return 2;
        case Type::uint8: return 3;
        case Type::int64: return 4;
        case Type::boolean: return 6;
        case Type::int16: return 7;
        case Type::int8: return 9;
        case Type::float64: return 11;
        case Type::uint64: return 13;
        case Type::uint32: return 16;
        case Type::uint16: return 17;
        case Type::half:
        case Type::bfloat16:
        case Type::string: break;
    }
    return 0;
}

struct LiteRtLibrary {
    static constexpr int HOST_MEMORY = 1;  // kLiteRtTensorBufferTypeHostMemory

    // Each returns 0, or a status that says what failed.
    int (*create)(LiteRtEnvironment*, LiteRtModel*, LiteRtOptions*, LiteRtCompiledModel**);
    void (*destroy)(LiteRtCompiledModel*);
    int (*resize)(LiteRtCompiledModel*, size_t signature, size_t input, const int* dims, size_t rank);
    int (*layouts)(LiteRtCompiledModel*, size_t signature, size_t count, LiteRtLayout*, bool allocate);
    int (*run)(LiteRtCompiledModel*, size_t signature, size_t inputs, LiteRtTensorBuffer**, size_t outputs,
               LiteRtTensorBuffer**);
    int (*create_buffer)(LiteRtEnvironment*, int kind, const LiteRtTensorType*, size_t size, LiteRtTensorBuffer**);
    int (*host_memory)(LiteRtTensorBuffer*, void**);
    void (*destroy_buffer)(LiteRtTensorBuffer*);

    // Looks all of them up; returns the name of the first that is not there, nullptr where all are.
    const char* find(void* handle) {
        const struct {
            const char* name;
            void* function;
        } wanted[] = {
            {"LiteRtCreateCompiledModel", &create},
            {"LiteRtDestroyCompiledModel", &destroy},
            {"LiteRtCompiledModelResizeInputTensorNonStrict", &resize},
            {"LiteRtGetCompiledModelOutputTensorLayouts", &layouts},
            {"LiteRtRunCompiledModel", &run},
            {"LiteRtCreateManagedTensorBuffer", &create_buffer},
            {"LiteRtGetTensorBufferHostMemory", &host_memory},
            {"LiteRtDestroyTensorBuffer", &destroy_buffer},
        };
        for (const auto& [name, function] : wanted) {
            void* const address = dlsym(handle, name);
            if (!address) return name;
            std::memcpy(function, &address, sizeof address);
        }
        return nullptr;
    }
};

}  // namespace accelerator
