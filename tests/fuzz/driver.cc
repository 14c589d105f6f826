// libFuzzer for a target in Python: FuzzerDriver.h of LLVM, with functions that Python can call and be called by.
// The targets' code in C++ is compiled with -fsanitize=fuzzer-no-link and reports what it covers to this library.

#include <cstddef>
#include <cstdint>

extern "C" {

int LLVMFuzzerRunDriver(int* argc, char*** argv, int (*target)(const uint8_t* data, size_t size));
size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

using Mutate = size_t (*)(uint8_t* data, size_t size, size_t max_size, unsigned seed);
static Mutate mutate_in_python = nullptr;

// Called by libFuzzer for each new input.
__attribute__((visibility("default"))) size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                                                      unsigned seed) {
    const size_t changed = seed % 10 < 3 ? 0 : mutate_in_python(data, size, max_size, seed);
    return changed ? changed : LLVMFuzzerMutate(data, size, max_size);
}

__attribute__((visibility("default"))) int fuzz(int argc, char** argv, int (*target)(const uint8_t*, size_t),
                                                Mutate mutate) {
    mutate_in_python = mutate;
    return LLVMFuzzerRunDriver(&argc, &argv, target);
}
}
