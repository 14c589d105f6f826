// The functions of TensorFlow's C API that the accelerator looks up, for its memory tests. An "operation" is a number
// that says what becomes of a fetch:
//   0  a copy of the input that its index names              5  eight times the rank that it could have
//   1  no element, of shape [0]                              6  bytes that do not fit the shape
//   2  the first input's first element, of rank 0            7  none: the run fails
//   3  as 0, of another type                                 8  as 0, yet the run fails
//   4  as 0, as a bool tensor                                9  as 0, one row short
//  10  as 0, with a byte size that is beyond its memory: a fault, to see that it is seen

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace {

struct Status {
    int code = 0;
};

struct Tensor {
    int type, rank;
    int64_t dims[64];
    size_t size;
    char* data;  // of exactly that size, for whoever reads beyond it
};

struct Output {
    void* operation;
    int index;
};

std::atomic<int64_t> tensors{0}, statuses{0}, runs{0};

}  // namespace

extern "C" {

int64_t live_tensors() { return tensors; }
int64_t live_statuses() { return statuses; }
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

Tensor* TF_AllocateTensor(int type, const int64_t* dims, int rank, size_t size) {
    if (size > (1 << 20)) return nullptr;
    ++tensors;
    auto* made = new Tensor{type, rank, {}, size, static_cast<char*>(std::malloc(size ? size : 1))};
    std::memcpy(made->dims, dims, sizeof *dims * static_cast<size_t>(rank));
    return made;
}
void TF_DeleteTensor(Tensor* tensor) {
    --tensors;
    std::free(tensor->data);
    delete tensor;
}
int TF_TensorType(const Tensor* tensor) { return tensor->type; }
int TF_NumDims(const Tensor* tensor) { return tensor->rank; }
int64_t TF_Dim(const Tensor* tensor, int axis) { return tensor->dims[axis]; }
size_t TF_TensorByteSize(const Tensor* tensor) { return tensor->size; }
void* TF_TensorData(const Tensor* tensor) { return tensor->data; }

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
    Tensor* made = TF_AllocateTensor(type, dims, rank, size);
    std::memcpy(made->data, from.data, size);
    if (what == 10) made->data = static_cast<char*>(std::realloc(made->data, size / 2));
    return made;
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
