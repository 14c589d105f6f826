// The functions of TensorFlow's C API that the accelerator looks up, for its memory tests. An "operation" is a number
// that says what becomes of a fetch:
//   0  a copy of the input that its index names              5  eight times the rank that it could have
//   1  no element, of shape [0]                              6  bytes that do not fit the shape
//   2  the first input's first element, of rank 0            7  none: the run fails
//   3  as 0, of another type                                 8  as 0, yet the run fails
//   4  as 0, as a bool tensor                                9  as 0, one row short
//  10  as 0, with a byte size that is beyond its memory: a fault, to see that it is seen
//  11  as 0, with half a character behind each string      12  as 0, each string without its last byte

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace {

struct Status {
    int code = 0;
};

constexpr int STRING = 7;
constexpr size_t MOST = 1 << 20;  // bytes of a tensor: there is no memory for more

struct Tensor {
    int type, rank;
    int64_t dims[64];
    size_t size;
    char* data;  // of exactly that size, for whoever reads beyond it
    void (*release)(void*, size_t, void*) = nullptr;
    void* argument = nullptr;
};

struct String {
    char* data;  // of exactly that size too
    size_t size;
    char* marked;  // the string itself, between its first and its last moment
};
static_assert(sizeof(String) == 24);

struct Output {
    void* operation;
    int index;
};

std::atomic<int64_t> tensors{0}, statuses{0}, strings{0}, runs{0};

}  // namespace

extern "C" {

int64_t live_tensors() { return tensors; }
int64_t live_statuses() { return statuses; }
int64_t live_strings() { return strings; }
int64_t count_runs() { return runs; }

Status* TF_NewStatus() {
    ++statuses;
    return new Status;
}
void TF_DeleteStatus(Status* status) {
    --statuses;
    delete status;
}
int TF_GetCode(const Status* status) { return status->code; }
const char* TF_Message(const Status* status) { return status->code ? "not today" : ""; }

void TF_StringInit(String* string) {
    ++strings;
    *string = {static_cast<char*>(std::malloc(1)), 0, reinterpret_cast<char*>(string)};
}
// Ends the process for what is no string, or none any more.
static const String& known(const String* string) {
    if (string->marked != reinterpret_cast<const char*>(string)) std::abort();
    return *string;
}
void TF_StringCopy(String* string, const char* from, size_t size) {
    std::free(known(string).data);
    string->data = static_cast<char*>(std::malloc(size ? size : 1));
    string->size = size;
    if (size) std::memcpy(string->data, from, size);
}
const char* TF_StringGetDataPointer(const String* string) { return known(string).data; }
size_t TF_StringGetSize(const String* string) { return known(string).size; }
void TF_StringDealloc(String* string) {
    --strings;
    std::free(known(string).data);
    string->marked = nullptr;
}

static Tensor* made(int type, const int64_t* dims, int rank, size_t size, char* data) {
    ++tensors;
    auto* tensor = new Tensor{type, rank, {}, size, data};
    if (rank) std::memcpy(tensor->dims, dims, sizeof *dims * static_cast<size_t>(rank));
    return tensor;
}
Tensor* TF_AllocateTensor(int type, const int64_t* dims, int rank, size_t size) {
    if (size > MOST) return nullptr;
    return made(type, dims, rank, size, static_cast<char*>(std::malloc(size ? size : 1)));
}
// "May return NULL (and invoke the deallocator)" - tf_tensor.h
Tensor* TF_NewTensor(int type, const int64_t* dims, int rank, void* data, size_t size,
                     void (*release)(void*, size_t, void*), void* argument) {
    if (size > MOST) {
        release(data, size, argument);
        return nullptr;
    }
    Tensor* tensor = made(type, dims, rank, size, static_cast<char*>(data));
    tensor->release = release;
    tensor->argument = argument;
    return tensor;
}
void TF_DeleteTensor(Tensor* tensor) {
    --tensors;
    if (tensor->release)
        tensor->release(tensor->data, tensor->size, tensor->argument);
    else
        std::free(tensor->data);
    delete tensor;
}
int TF_TensorType(const Tensor* tensor) { return tensor->type; }
int TF_NumDims(const Tensor* tensor) { return tensor->rank; }
int64_t TF_Dim(const Tensor* tensor, int axis) { return tensor->dims[axis]; }
size_t TF_TensorByteSize(const Tensor* tensor) { return tensor->size; }
void* TF_TensorData(const Tensor* tensor) { return tensor->data; }

static void release_strings(void* data, size_t size, void*) {
    for (size_t at = 0; at + sizeof(String) <= size; at += sizeof(String))
        TF_StringDealloc(reinterpret_cast<String*>(static_cast<char*>(data) + at));
    std::free(data);
}

// Copies strings, each changed as the operation says.
static Tensor* copies(const Tensor& from, const int64_t* dims, int rank, size_t size, uintptr_t what) {
    auto* data = static_cast<char*>(std::malloc(size ? size : 1));
    for (size_t at = 0; at + sizeof(String) <= size; at += sizeof(String)) {
        auto* to = reinterpret_cast<String*>(data + at);
        const String& one = known(reinterpret_cast<const String*>(from.data + at));
        const size_t less = what == 12 && one.size ? 1 : 0, more = what == 11 ? 2 : 0;
        TF_StringInit(to);
        auto* changed = static_cast<char*>(std::malloc(one.size + 2));
        std::memcpy(changed, one.data, one.size);
        std::memcpy(changed + one.size, "\xe2\x82", 2);
        TF_StringCopy(to, changed, one.size - less + more);
        std::free(changed);
    }
    Tensor* tensor = made(STRING, dims, rank, size, data);
    tensor->release = release_strings;
    return tensor;
}

static Tensor* fetch(const Output& output, Tensor* const* inputs) {
    const auto what = reinterpret_cast<uintptr_t>(output.operation);
    const Tensor& from = *inputs[output.index];
    if (what == 7) return nullptr;
    if (what == 1) {
        const int64_t none = 0;
        return TF_AllocateTensor(from.type, &none, 1, 0);
    }
    int64_t dims[64];
    std::memcpy(dims, from.dims, sizeof dims);
    int type = from.type, rank = from.rank;
    size_t size = from.size;
    if (what == 2) {
        int64_t count = 1;
        for (int axis = 0; axis < rank; ++axis) count *= dims[axis];
        size /= static_cast<size_t>(count);
        rank = 0;
    } else if (what == 3) {
        type = from.type == 3 ? 1 : 3;
    } else if (what == 4) {
        type = 10;
    } else if (what == 5) {
        for (rank = 0; rank < 64; ++rank) dims[rank] = 1;
    } else if (what == 6) {
        size /= 2;
    } else if (what == 9 && rank) {
        size -= size / static_cast<size_t>(dims[0]);
        --dims[0];
    }
    if (type == STRING && from.type == STRING) return copies(from, dims, rank, size, what);
    Tensor* tensor = TF_AllocateTensor(type, dims, rank, size);
    std::memcpy(tensor->data, from.data, size);
    if (what == 10) tensor->data = static_cast<char*>(std::realloc(tensor->data, size / 2));
    return tensor;
}

void TF_SessionRun(void*, const void*, const Output*, Tensor* const* inputs, int, const Output* fetches,
                   Tensor** outputs, int count, const void* const*, int, void*, Status* status) {
    ++runs;
    for (int place = 0; place < count; ++place) {
        outputs[place] = fetch(fetches[place], inputs);
        const auto what = reinterpret_cast<uintptr_t>(fetches[place].operation);
        if (what == 7 || what == 8) status->code = 3;
    }
}
}
