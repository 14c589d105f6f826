// The predict requests of TensorFlow Serving.

#pragma once

#include <cstdint>

#include "bytes.h"
#include "call.h"
#include "reader.h"

namespace accelerator {

enum Form { ROWS, COLUMNS };

// A predict request of TensorFlow Serving's: tensorflow_serving/g3doc/api_rest.md
class Predict : public Call {
  public:
    Predict(const char* start, size_t size) : start_(start), size_(size) {}

    // `signatures[0]` answers where none is named. One that is named behind the numbers is declined: they cannot be
    // read before it is known.
    bool read(const Signature* signatures, int count, const Limits& limits) {
        Reader json(start_, size_);
        const Signature* called = signatures;
        if (!json.take('{')) return false;
        Text key;
        if (!json.text(key) || !json.take(':')) return false;
        if (key.is("signature_name")) {
            Text name;
            if (!json.text(name) || !json.take(',')) return false;
            called = accelerator::find(signatures, count, name);
            if (!called || !json.text(key) || !json.take(':')) return false;
        }
        of(*called);
        if (key.is("instances")) {
            form = ROWS;
            if (!rows(json, limits)) return false;
        } else if (key.is("inputs")) {
            form = COLUMNS;
            if (!whole(json, limits)) return false;
        } else {
            return false;
        }
        return json.take('}') && json.at_end() && within(limits);
    }

    Form form = ROWS;

  private:
    bool rows(Reader& json, const Limits& limits) {
        Reader ahead = json;
        if (!ahead.take('[')) return false;
        if (!ahead.next_is('{') || ahead.next_is_base64()) {
            if (signature->inputs != 1 || signature->input[0].rank < 1) return false;
            return nest(json, signature->input[0], columns[0], 0, limits.elements);
        }
        json = ahead;
        int64_t count = 0;
        do {
            if (!members(json, 1, limits)) return false;
            if (++count > limits.rows) return false;
        } while (json.take(','));
        if (!json.take(']')) return false;
        for (int place = 0; place < signature->inputs; ++place) {
            int64_t& size = columns[place].dims[0];
            if (size < 0) size = count;
            if (size != count) return false;
        }
        return true;
    }

    bool whole(Reader& json, const Limits& limits) {
        if (json.next_is('{') && !json.next_is_base64()) return members(json, 0, limits);
        if (signature->inputs != 1) return false;
        return nest(json, signature->input[0], columns[0], 0, limits.elements);
    }

    // Takes an object of every input by its name, in any order; `depth` dimensions are told by what is around it.
    bool members(Reader& json, int depth, const Limits& limits) {
        if (!json.take('{')) return false;
        uint32_t seen = 0;
        do {
            Text name;
            if (!json.text(name) || !json.take(':')) return false;
            const int place = find(name);
            if (place < 0 || seen & (1u << place) || signature->input[place].rank < depth) return false;
            seen |= 1u << place;
            if (!nest(json, signature->input[place], columns[place], depth, limits.elements)) return false;
        } while (json.take(','));
        return json.take('}') && seen == (1u << signature->inputs) - 1;
    }

    const char* start_;
    size_t size_;
};

}  // namespace accelerator
