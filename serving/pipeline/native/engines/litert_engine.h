// Signatures run by LiteRT. A compiled model serves one run at a time, so there are several, made as they are needed.

#pragma once

#include <pthread.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <utility>

#include "engine.h"
#include "litert.h"

namespace accelerator {

// Memory that LiteRT reads or writes as one tensor; none where `create` has failed.
class LiteRtBuffer {
  public:
    LiteRtBuffer() = default;
    LiteRtBuffer(const LiteRtBuffer&) = delete;
    LiteRtBuffer(LiteRtBuffer&&) = delete;
    LiteRtBuffer& operator=(const LiteRtBuffer&) = delete;
    LiteRtBuffer& operator=(LiteRtBuffer&&) = delete;
    ~LiteRtBuffer() {
        if (buffer_) destroy_(buffer_);
    }

    // Replaces the buffer by one for a shape; `size` is in bytes.
    bool create(const LiteRtLibrary& library, LiteRtEnvironment* environment, const LiteRtTensorType& type, size_t size) {
        LiteRtTensorBuffer* made = nullptr;
        if (library.create_buffer(environment, LiteRtLibrary::HOST_MEMORY, &type, size, &made) || !made) return false;
        if (buffer_) destroy_(buffer_);
        buffer_ = made;
        destroy_ = library.destroy_buffer;
        size_ = size;
        void* memory = nullptr;
        if (library.host_memory(buffer_, &memory)) return false;
        memory_ = static_cast<char*>(memory);
        return memory_ != nullptr;
    }
    [[nodiscard]] LiteRtTensorBuffer* get() const { return buffer_; }
    [[nodiscard]] char* memory() const { return memory_; }
    [[nodiscard]] size_t size() const { return size_; }

    // LiteRT reports success for an output that it has left elsewhere: one whose size depends on values. So the memory is
    // marked before a run; where the mark is still there, nothing was written.
    void mark() const { std::memset(memory_, MARK, std::min(size_, MARKED)); }
    [[nodiscard]] bool is_marked() const {
        for (size_t at = 0; at < std::min(size_, MARKED); ++at)
            if (static_cast<unsigned char>(memory_[at]) != MARK) return false;
        return size_ != 0;
    }

  private:
    static constexpr unsigned char MARK = 0xa5;
    static constexpr size_t MARKED = 16;

    LiteRtTensorBuffer* buffer_ = nullptr;
    void (*destroy_)(LiteRtTensorBuffer*) = nullptr;
    char* memory_ = nullptr;
    size_t size_ = 0;
};

// The tensors of one signature in one compiled model, for the shapes of its last run.
struct LiteRtTensors {
    bool shaped = false;  // they are for `dims`
    std::array<Dims, MAX_TENSORS> dims;  // of the inputs
    std::array<LiteRtLayout, MAX_TENSORS> layouts;  // of the outputs, by their positions
    std::array<LiteRtBuffer, MAX_TENSORS> inputs, outputs;  // by their positions
};

class LiteRtEngine;

// A compiled model, used by one run at a time.
class LiteRtRun final : public Run {
  public:
    LiteRtRun(LiteRtEngine& engine, LiteRtCompiledModel* model, bool owned)
        : engine_(engine), model_(model), owned_(owned) {}
    LiteRtRun(const LiteRtRun&) = delete;
    LiteRtRun(LiteRtRun&&) = delete;
    LiteRtRun& operator=(const LiteRtRun&) = delete;
    LiteRtRun& operator=(LiteRtRun&&) = delete;
    ~LiteRtRun();

    Declined feed(Call& call, int64_t rows) override;
    Declined run(const Signature& signature) override;
    [[nodiscard]] int code() const override { return 0; }  // of what LiteRT refuses, Python says why
    [[nodiscard]] const char* message() const override { return ""; }
    Declined look(const Signature& signature, Results& results) const override;
    void end() override;

    [[nodiscard]] bool failed() const { return failed_; }

  private:
    static Dims shape(const Call& call, size_t index, int64_t rows) {
        Dims dims = call.columns[index].dims;
        if (rows) dims[0] = rows;
        return dims;
    }
    static bool is_shaped(const LiteRtTensors& tensors, const Call& call, int64_t rows) {
        for (size_t index = 0; tensors.shaped && index < call.signature->input_count; ++index) {
            const Dims dims = shape(call, index, rows);
            const auto end = dims.begin() + static_cast<ptrdiff_t>(call.signature->inputs[index].rank);
            if (!std::equal(dims.begin(), end, tensors.dims[index].begin())) return false;
        }
        return tensors.shaped;
    }
    Declined reshape(LiteRtTensors& tensors, const Call& call, int64_t rows);
    Declined make_input(LiteRtTensors& tensors, const Signature& signature, size_t index);
    Declined make_output(LiteRtTensors& tensors, const Signature& signature, size_t index);

    LiteRtEngine& engine_;
    LiteRtCompiledModel* const model_;
    const bool owned_;
    bool failed_ = false;  // it is not used again
    std::array<std::unique_ptr<LiteRtTensors>, MAX_SIGNATURES> tensors_;
};

// What Python has opened, for as long as the engine lives.
struct LiteRtHandles {
    LiteRtEnvironment* environment;
    LiteRtModel* model;
    LiteRtOptions* options;
    LiteRtCompiledModel* compiled;  // the first; the others are made here
};

class Lock {
  public:
    explicit Lock(pthread_mutex_t& mutex) : mutex_(mutex) { pthread_mutex_lock(&mutex_); }
    Lock(const Lock&) = delete;
    Lock(Lock&&) = delete;
    Lock& operator=(const Lock&) = delete;
    Lock& operator=(Lock&&) = delete;
    ~Lock() { pthread_mutex_unlock(&mutex_); }

  private:
    pthread_mutex_t& mutex_;
};

class LiteRtEngine final : public Engine {
  public:
    static constexpr size_t MOST = 256;

    // At most `most` compiled models are used at once, up to MOST.
    LiteRtEngine(const LiteRtLibrary& library, const LiteRtHandles& handles, size_t most)
        : library_(library), handles_(handles), most_(std::clamp<size_t>(most, 1, MOST)) {}
    LiteRtEngine(const LiteRtEngine&) = delete;
    LiteRtEngine(LiteRtEngine&&) = delete;
    LiteRtEngine& operator=(const LiteRtEngine&) = delete;
    LiteRtEngine& operator=(LiteRtEngine&&) = delete;
    ~LiteRtEngine() override {
        for (size_t index = 0; index < idle_count_; ++index) delete idle_[index];
        pthread_cond_destroy(&freed_);
        pthread_mutex_destroy(&mutex_);
        pthread_mutex_destroy(&creating_);
    }

    // Waits while all of them run.
    std::unique_ptr<Run, EndRun> begin() override {
        {
            const Lock lock(mutex_);
            while (!idle_count_ && made_ == most_) pthread_cond_wait(&freed_, &mutex_);
            if (idle_count_) return std::unique_ptr<Run, EndRun>(idle_[--idle_count_]);
            ++made_;
        }
        LiteRtRun* const run = create();
        if (!run) forget();
        return std::unique_ptr<Run, EndRun>(run);
    }

    void put_back(LiteRtRun* run) {
        if (run->failed()) {
            delete run;
            return forget();
        }
        const Lock lock(mutex_);
        idle_[idle_count_++] = run;
        pthread_cond_signal(&freed_);
    }

    [[nodiscard]] const LiteRtLibrary& library() const { return library_; }
    [[nodiscard]] LiteRtEnvironment* environment() const { return handles_.environment; }

  private:
    LiteRtRun* create() {
        const Lock lock(creating_);  // LiteRT adds to the options meanwhile
        LiteRtCompiledModel* model = std::exchange(handles_.compiled, nullptr);
        const bool owned = !model;
        if (owned && (library_.create(handles_.environment, handles_.model, handles_.options, &model) || !model))
            return nullptr;
        auto* const run = new (std::nothrow) LiteRtRun(*this, model, owned);
        if (!run && owned) library_.destroy(model);
        return run;
    }
    void forget() {
        const Lock lock(mutex_);
        --made_;
        pthread_cond_signal(&freed_);
    }

    const LiteRtLibrary library_;
    LiteRtHandles handles_;
    const size_t most_;
    pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER, creating_ = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t freed_ = PTHREAD_COND_INITIALIZER;
    size_t made_ = 0, idle_count_ = 0;
    std::array<LiteRtRun*, MOST> idle_{};
};

inline LiteRtRun::~LiteRtRun() {
    if (owned_) engine_.library().destroy(model_);  // before the buffers that it points at
}

inline void LiteRtRun::end() { engine_.put_back(this); }

inline Declined LiteRtRun::feed(Call& call, int64_t rows) {
    const Signature& signature = *call.signature;
    auto& tensors = tensors_[signature.index];
    if (!tensors) tensors.reset(new (std::nothrow) LiteRtTensors());
    if (!tensors) return Decline::memory;
    if (!is_shaped(*tensors, call, rows)) {
        failed_ = true;  // unless all of it succeeds
        if (Declined declined = reshape(*tensors, call, rows)) return declined;
        failed_ = false;
    }
    for (size_t index = 0; index < signature.input_count; ++index) {
        const LiteRtBuffer& buffer = tensors->inputs[static_cast<size_t>(signature.feeds[index].index)];
        copy_elements(call, index, tensors->dims[index][0], buffer.memory(), buffer.size());
    }
    return {};
}

inline Declined LiteRtRun::reshape(LiteRtTensors& tensors, const Call& call, int64_t rows) {
    const Signature& signature = *call.signature;
    const LiteRtLibrary& library = engine_.library();
    tensors.shaped = false;
    for (size_t index = 0; index < signature.input_count; ++index) {
        const size_t rank = signature.inputs[index].rank;
        tensors.dims[index] = shape(call, index, rows);
        std::array<int, LITERT_MAX_RANK> dims{};
        for (size_t axis = 0; axis < rank; ++axis) {
            const int64_t size = tensors.dims[index][axis];
            if (size < 1 || size > std::numeric_limits<int>::max()) return Decline::shape;
            dims[axis] = static_cast<int>(size);
        }
        const Endpoint& feed = signature.feeds[index];
        if (rank && library.resize(model_, feed.owner, static_cast<size_t>(feed.index), dims.data(), rank))
            return Decline::result;
    }
    if (library.layouts(model_, signature.fetches[0].owner, signature.output_count, tensors.layouts.data(), true))
        return Decline::result;
    for (size_t index = 0; index < signature.input_count; ++index)
        if (Declined declined = make_input(tensors, signature, index)) return declined;
    for (size_t index = 0; index < signature.output_count; ++index)
        if (Declined declined = make_output(tensors, signature, index)) return declined;
    tensors.shaped = true;
    return {};
}

inline Declined LiteRtRun::make_input(LiteRtTensors& tensors, const Signature& signature, size_t index) {
    const Input& input = signature.inputs[index];
    LiteRtTensorType type{litert_type(input.type), {static_cast<unsigned>(input.rank) & 127U, 0, {}, {}}};
    size_t size = item_size(input.type);
    for (size_t axis = 0; axis < input.rank; ++axis) {
        type.layout.dimensions[axis] = static_cast<int32_t>(tensors.dims[index][axis]);
        size *= static_cast<size_t>(tensors.dims[index][axis]);
    }
    LiteRtBuffer& buffer = tensors.inputs[static_cast<size_t>(signature.feeds[index].index)];
    return buffer.create(engine_.library(), engine_.environment(), type, size) ? Declined() : Decline::memory;
}

inline Declined LiteRtRun::make_output(LiteRtTensors& tensors, const Signature& signature, size_t index) {
    const auto position = static_cast<size_t>(signature.fetches[index].index);
    const Output& output = signature.outputs[index];
    const LiteRtLayout& layout = tensors.layouts[position];
    size_t size = item_size(output.type);
    for (size_t axis = 0; axis < layout.rank; ++axis) {
        if (axis == LITERT_MAX_RANK || layout.dimensions[axis] < 1) return Decline::result;
        if (__builtin_mul_overflow(size, static_cast<size_t>(layout.dimensions[axis]), &size)) return Decline::result;
    }
    return tensors.outputs[position].create(engine_.library(), engine_.environment(), {litert_type(output.type), layout},
                                            size)
               ? Declined()
               : Decline::memory;
}

inline Declined LiteRtRun::run(const Signature& signature) {
    const LiteRtTensors& tensors = *tensors_[signature.index];
    std::array<LiteRtTensorBuffer*, MAX_TENSORS> inputs{}, outputs{};
    for (size_t position = 0; position < signature.input_count; ++position) inputs[position] = tensors.inputs[position].get();
    for (size_t position = 0; position < signature.output_count; ++position) {
        tensors.outputs[position].mark();
        outputs[position] = tensors.outputs[position].get();
    }
    failed_ = engine_.library().run(model_, signature.fetches[0].owner, signature.input_count, inputs.data(),
                                    signature.output_count, outputs.data()) != 0;
    for (size_t position = 0; !failed_ && position < signature.output_count; ++position)
        failed_ = tensors.outputs[position].is_marked();
    return failed_ ? Decline::result : Declined();
}

inline Declined LiteRtRun::look(const Signature& signature, Results& results) const {
    const LiteRtTensors& tensors = *tensors_[signature.index];
    for (size_t index = 0; index < signature.output_count; ++index) {
        const auto position = static_cast<size_t>(signature.fetches[index].index);
        const LiteRtLayout& layout = tensors.layouts[position];
        const LiteRtBuffer& buffer = tensors.outputs[position];
        Given given{signature.outputs[index].type, layout.rank, {}, {buffer.memory(), buffer.size()}, nullptr};
        for (size_t axis = 0; axis < layout.rank; ++axis) given.dims[axis] = layout.dimensions[axis];
        if (Declined declined = results[index].look(given, signature.outputs[index])) return declined;
    }
    return {};
}

}  // namespace accelerator
