// TensorFlow's C API: tensorflow/c/c_api.h, tf_tensor.h, tf_status.h, tf_tstring.h.

#pragma once

#include <dlfcn.h>

#include <cstdint>
#include <cstring>
#include <memory>

#include "../result.h"

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

// Gives back to TensorFlow what it owns.
template <typename T>
struct Deleter {
    void (*destroy)(T*) = nullptr;
    void operator()(T* owned) const { destroy(owned); }
};
using Tensor = std::unique_ptr<TF_Tensor, Deleter<TF_Tensor>>;
using Status = std::unique_ptr<TF_Status, Deleter<TF_Status>>;

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
    Strings strings;
    void (*string_dealloc)(void*);
    void (*run)(TF_Session*, const TF_Buffer*, const TF_Output*, TF_Tensor* const*, int, const TF_Output*, TF_Tensor**,
                int, const TF_Operation* const*, int, TF_Buffer*, TF_Status*);

    // Looks all of them up; returns the name of the first that is not there, nullptr where all are.
    const char* find(void* handle) {
        const struct {
            const char* name;
            void* function;
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
            {"TF_StringGetDataPointer", &strings.data},
            {"TF_StringGetSize", &strings.size},
            {"TF_StringDealloc", &string_dealloc},
        };
        for (const auto& [name, function] : wanted) {
            void* const address = dlsym(handle, name);
            if (!address) return name;
            std::memcpy(function, &address, sizeof address);
        }
        return nullptr;
    }

    [[nodiscard]] Tensor owned(TF_Tensor* tensor) const { return Tensor(tensor, {delete_tensor}); }
    [[nodiscard]] Status status() const { return Status(new_status(), {delete_status}); }
};

}  // namespace accelerator
