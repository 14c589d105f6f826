// TensorFlow's C API: tensorflow/c/c_api.h, tf_tensor.h, tf_status.h, tf_datatype.h.

#pragma once

#include <dlfcn.h>

#include <cstdint>
#include <cstring>

namespace accelerator {

struct TF_Status;
struct TF_Session;
struct TF_Tensor;
struct TF_Buffer;
struct TF_Operation;
struct TF_Output {
    TF_Operation* oper;
    int index;
};

enum Type {
    FLOAT = 1,
    DOUBLE = 2,
    INT32 = 3,
    UINT8 = 4,
    INT16 = 5,
    INT8 = 6,
    STRING = 7,
    INT64 = 9,
    BOOL = 10,
    UINT16 = 17,
    UINT32 = 22,
    UINT64 = 23,
};

struct Library {
    TF_Status* (*new_status)();
    void (*delete_status)(TF_Status*);
    int (*get_code)(const TF_Status*);
    const char* (*message)(const TF_Status*);
    TF_Tensor* (*allocate_tensor)(int, const int64_t*, int, size_t);
    void (*delete_tensor)(TF_Tensor*);
    int (*tensor_type)(const TF_Tensor*);
    int (*num_dims)(const TF_Tensor*);
    int64_t (*dim)(const TF_Tensor*, int);
    size_t (*byte_size)(const TF_Tensor*);
    void* (*data)(const TF_Tensor*);
    TF_Tensor* (*new_tensor)(int, const int64_t*, int, void*, size_t, void (*)(void*, size_t, void*), void*);
    void (*string_init)(void*);
    void (*string_copy)(void*, const char*, size_t);
    const char* (*string_data)(const void*);
    size_t (*string_size)(const void*);
    void (*string_dealloc)(void*);
    void (*run)(TF_Session*, const TF_Buffer*, const TF_Output*, TF_Tensor* const*, int, const TF_Output*, TF_Tensor**,
                int, const TF_Operation* const*, int, TF_Buffer*, TF_Status*);

    // Returns the name of the first function that is not there, nullptr where all are.
    const char* find(void* handle) {
        const struct {
            const char* name;
            void* place;
        } wanted[] = {
            {"TF_NewStatus", &new_status},
            {"TF_DeleteStatus", &delete_status},
            {"TF_GetCode", &get_code},
            {"TF_Message", &message},
            {"TF_AllocateTensor", &allocate_tensor},
            {"TF_DeleteTensor", &delete_tensor},
            {"TF_TensorType", &tensor_type},
            {"TF_NumDims", &num_dims},
            {"TF_Dim", &dim},
            {"TF_TensorByteSize", &byte_size},
            {"TF_TensorData", &data},
            {"TF_SessionRun", &run},
            {"TF_NewTensor", &new_tensor},
            {"TF_StringInit", &string_init},
            {"TF_StringCopy", &string_copy},
            {"TF_StringGetDataPointer", &string_data},
            {"TF_StringGetSize", &string_size},
            {"TF_StringDealloc", &string_dealloc},
        };
        for (const auto& [name, place] : wanted) {
            void* address = dlsym(handle, name);
            if (!address) return name;
            std::memcpy(place, &address, sizeof address);
        }
        return nullptr;
    }
};

constexpr int MAX_RANK = 32, MAX_TENSORS = 16, MAX_SIGNATURES = 16;

size_t item_size(int type) {
    switch (type) {
        case INT8:
        case UINT8:
        case BOOL: return 1;
        case INT16:
        case UINT16: return 2;
        case FLOAT:
        case INT32:
        case UINT32: return 4;
        case DOUBLE:
        case INT64:
        case UINT64: return 8;
        case STRING: return 24;  // sizeof(TF_TString), tf_tstring.h
        default: return 0;
    }
}

}  // namespace accelerator
