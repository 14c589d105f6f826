// What runs the signatures of a model: TensorFlow's C library (tensorflow_engine.h) or LiteRT (litert_engine.h).

#pragma once

#include <cstdint>
#include <memory>

#include "../call.h"
#include "../model.h"
#include "../result.h"

namespace accelerator {

// One run of a signature, from its inputs to its outputs, which are valid until it ends.
class Run {
  public:
    Run() = default;
    Run(const Run&) = delete;
    Run(Run&&) = delete;
    Run& operator=(const Run&) = delete;
    Run& operator=(Run&&) = delete;

    // Makes the input tensors of a call and of those after it; `rows`, where not 0, is how many rows they have in all: the
    // last row is repeated up to there. May free the columns' memory, where the call is alone and is not run again.
    [[nodiscard]] virtual Declined feed(Call& call, int64_t rows) = 0;
    // Runs the signature; declined where Python is to run it instead.
    [[nodiscard]] virtual Declined run(const Signature& signature) = 0;
    // TensorFlow's status: 0, or why it refuses the request.
    [[nodiscard]] virtual int code() const = 0;
    [[nodiscard]] virtual const char* message() const = 0;
    // Reads the outputs.
    [[nodiscard]] virtual Declined look(const Signature& signature, Results& results) const = 0;
    // Gives back what the run holds; it is of no use afterwards.
    virtual void end() = 0;

  protected:
    ~Run() = default;
};

struct EndRun {
    void operator()(Run* run) const { run->end(); }
};

// Threads may begin runs at once.
class Engine {
  public:
    Engine() = default;
    Engine(const Engine&) = delete;
    Engine(Engine&&) = delete;
    Engine& operator=(const Engine&) = delete;
    Engine& operator=(Engine&&) = delete;
    virtual ~Engine() = default;

    // nullptr where there is no memory.
    [[nodiscard]] virtual std::unique_ptr<Run, EndRun> begin() = 0;
};

}  // namespace accelerator
