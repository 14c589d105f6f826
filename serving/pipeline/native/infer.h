// The infer requests of the Open Inference Protocol.

#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "bytes.h"
#include "call.h"
#include "reader.h"

namespace accelerator {

// An infer request of the Open Inference Protocol, with Triton's binary tensor data. In any other order than that which
// clients write, a tensor's name and shape before its data, it is declined.
class Infer : public Call {
  public:
    // The JSON's size, that of the whole body.
    Infer(const char* start, size_t size, size_t whole) : start_(start), size_(size), whole_(whole), next_(size) {}

    // `signatures[0]` answers where none is named. Another that is named behind the tensors is declined.
    bool read(const Signature* signatures, int count, const Limits& limits) {
        Reader json(start_, size_);
        of(signatures[0]);
        if (!json.take('{')) return false;
        enum { ID = 1, INPUTS = 2, OUTPUTS = 4, PARAMETERS = 8 };
        int seen = 0;
        do {
            Text key;
            if (!json.text(key) || !json.take(':')) return false;
            const int one = key.is("id")           ? ID
                            : key.is("inputs")     ? INPUTS
                            : key.is("outputs")    ? OUTPUTS
                            : key.is("parameters") ? PARAMETERS
                                                   : 0;
            if (!one || seen & one) return false;
            seen |= one;
            if (!(one == ID        ? json.text(id)
                  : one == INPUTS  ? inputs(json, limits)
                  : one == OUTPUTS ? outputs(json)
                                   : parameters(json, signatures, count, seen & (INPUTS | OUTPUTS))))
                return false;
        } while (json.take(','));
        if (!json.take('}') || !json.at_end() || !(seen & INPUTS) || next_ != whole_) return false;
        if (id.start && id.size > static_cast<size_t>(limits.id)) return false;
        if (!asked)
            for (; asked < signature->outputs; ++asked) output[asked] = asked;
        for (int place = 0; place < asked; ++place) binary[place] = binary[place] < 0 ? binary_ : binary[place];
        return within(limits);
    }

    Text id;
    int asked = 0;  // outputs, in this order
    int output[MAX_TENSORS];
    int binary[MAX_TENSORS] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};  // -1: not said

  private:
    bool inputs(Reader& json, const Limits& limits) {
        uint32_t seen = 0;
        if (!json.take('[')) return false;
        do {
            if (!tensor(json, limits, seen)) return false;
        } while (json.take(','));
        return json.take(']') && seen == (1u << signature->inputs) - 1;
    }

    bool tensor(Reader& json, const Limits& limits, uint32_t& all) {
        enum { NAME = 1, SHAPE = 2, DATATYPE = 4, DATA = 8, PARAMETERS = 16 };
        if (!json.take('{')) return false;
        int seen = 0, place = -1;
        int64_t count = 1, size = -1;
        Text datatype;
        do {
            Text key;
            if (!json.text(key) || !json.take(':')) return false;
            const int one = key.is("name")         ? NAME
                            : key.is("shape")      ? SHAPE
                            : key.is("datatype")   ? DATATYPE
                            : key.is("data")       ? DATA
                            : key.is("parameters") ? PARAMETERS
                                                   : 0;
            if (!one || seen & one || (one != NAME && one != DATATYPE && place < 0)) return false;
            seen |= one;
            if (one == NAME) {
                Text name;
                if (!json.text(name) || (place = find(name)) < 0 || all & (1u << place)) return false;
                all |= 1u << place;
            } else if (one == SHAPE) {
                if (!shape(json, place, limits, count)) return false;
            } else if (one == DATATYPE) {
                if (!json.text(datatype)) return false;
            } else if (one == DATA) {
                if (!(seen & SHAPE) || !data(json, place, limits, count)) return false;
            } else if (!parameter(json, "binary_data_size", size)) {
                return false;
            }
        } while (json.take(','));
        if (!json.take('}') || place < 0 || !datatype.is(signature->input[place].datatype)) return false;
        if (!(seen & SHAPE) || !(seen & DATA) == !(seen & PARAMETERS)) return false;
        if (seen & PARAMETERS) {
            if (signature->input[place].type == STRING) return strings(place, count, size);
            const size_t wanted = static_cast<size_t>(count) * item_size(signature->input[place].type);
            if (size < 0 || static_cast<size_t>(size) != wanted || wanted > whole_ - next_) return false;
            columns[place].given = start_ + next_;
            columns[place].given_size = wanted;
            next_ += wanted;
        }
        return true;
    }

    // Each behind its length, in 4 bytes.
    bool strings(int place, int64_t count, int64_t size) {
        if (size < 0 || static_cast<size_t>(size) > whole_ - next_) return false;
        const char *at = start_ + next_, *const end = at + size;
        for (int64_t index = 0; index < count; ++index) {
            uint32_t length;
            if (end - at < 4) return false;
            std::memcpy(&length, at, sizeof length);
            at += 4;
            if (end - at < static_cast<int64_t>(length)) return false;
            const Part part{columns[place].text.size(), length};
            columns[place].text.add(at, length);
            columns[place].elements.add(reinterpret_cast<const char*>(&part), sizeof part);
            at += length;
        }
        next_ += static_cast<size_t>(size);
        return at == end && columns[place].text.ok() && columns[place].elements.ok();
    }

    bool shape(Reader& json, int place, const Limits& limits, int64_t& count) {
        const Input& input = signature->input[place];
        if (!json.take('[')) return false;
        for (int axis = 0; axis < input.rank; ++axis) {
            int64_t size, &wanted = columns[place].dims[axis];
            if ((axis && !json.take(',')) || !json.number(size)) return false;
            if (size < 1 || size > limits.elements / count || (wanted >= 0 && size != wanted)) return false;
            wanted = size;
            count *= size;
        }
        return json.take(']');
    }

    // Row by row, flat or nested as the shape is.
    bool data(Reader& json, int place, const Limits& limits, int64_t count) {
        const Input& input = signature->input[place];
        Reader ahead = json;
        if (!ahead.take('[')) return false;
        if (ahead.next_is('[')) return nest(json, input, columns[place], 0, limits.elements);
        Input flat = input;
        Column row;
        flat.rank = 1;
        row.dims[0] = count;
        if (!nest(json, flat, row, 0, limits.elements)) return false;
        columns[place].elements.take(row.elements);
        columns[place].text.take(row.text);
        return true;
    }

    bool outputs(Reader& json) {
        if (!json.take('[')) return false;
        if (json.take(']')) return true;
        do {
            Text key, name;
            if (asked == signature->outputs || !json.take('{') || !json.text(key) || !key.is("name") ||
                !json.take(':') || !json.text(name))
                return false;
            int place = 0;
            while (place < signature->outputs && !signature->output[place].name.is(name)) ++place;
            for (int other = 0; other < asked; ++other)
                if (output[other] == place) return false;
            if (place == signature->outputs) return false;
            if (json.take(',')) {
                bool wanted;
                if (!json.text(key) || !key.is("parameters") || !json.take(':') ||
                    !parameter(json, "binary_data", wanted))
                    return false;
                binary[asked] = wanted;
            }
            output[asked++] = place;
            if (!json.take('}')) return false;
        } while (json.take(','));
        return json.take(']');
    }

    bool parameters(Reader& json, const Signature* signatures, int count, bool late) {
        bool named = false, flagged = false;
        if (!json.take('{')) return false;
        do {
            Text key, name;
            if (!json.text(key) || !json.take(':')) return false;
            if (key.is("binary_data_output") && !flagged) {
                flagged = true;
                if (!json.flag(binary_)) return false;
            } else if (key.is("signature_name") && !named) {
                named = true;
                if (!json.text(name)) return false;
                const Signature* const called = accelerator::find(signatures, count, name);
                if (!called || (late && called != signature)) return false;
                if (!late) of(*called);
            } else {
                return false;
            }
        } while (json.take(','));
        return json.take('}');
    }

    // Takes an object of one member.
    template <typename T>
    bool parameter(Reader& json, const char* name, T& value) {
        Text key;
        if (!json.take('{') || !json.text(key) || !key.is(name) || !json.take(':')) return false;
        if constexpr (std::is_same_v<T, bool>) {
            if (!json.flag(value)) return false;
        } else {
            if (!json.number(value)) return false;
        }
        return json.take('}');
    }

    const char* start_;
    size_t size_, whole_, next_;  // next_: where the next binary tensor begins
    bool binary_ = false;
};

}  // namespace accelerator
