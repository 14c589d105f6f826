// What a request asks for: bodies of both protocols become columns, one an input.

#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "bytes.h"
#include "reader.h"
#include "tensorflow.h"

namespace accelerator {

struct Input {
    Text name, datatype;  // what the Open Inference Protocol calls the type
    int type = 0;
    int rank = 0;
    int64_t dims[MAX_RANK];  // -1: any
};

struct Output {
    Text name, key, datatype;  // the key: the name as JSON, with quotes and colon
    int type = 0;
    bool as_bytes = false;  // strings are written in base64, whatever is in them
};

struct Signature {
    Text name;
    int inputs = 0, outputs = 0;
    Input input[MAX_TENSORS];
    Output output[MAX_TENSORS];
    TF_Output feeds[MAX_TENSORS], fetches[MAX_TENSORS];
};

// The signature of a name, nullptr where there is none.
const Signature* find(const Signature* signatures, int count, const Text& name) {
    for (int place = 0; place < count; ++place)
        if (signatures[place].name.is(name)) return signatures + place;
    return nullptr;
}

// A string, as a part of the column's text.
struct Part {
    size_t start, size;
};

// One input on its way: its elements, and the shape that they turn out to have.
struct Column {
    Bytes elements, text;
    const char* given = nullptr;  // those that stand in the body as they are
    size_t given_size = 0;
    int64_t dims[MAX_RANK];

    const char* data() { return given ? given : elements.data(); }
    size_t size() { return given ? given_size : elements.size(); }
    int64_t count(int type) { return static_cast<int64_t>(size() / (type == STRING ? sizeof(Part) : item_size(type))); }
    Part part(int64_t index) {
        Part found;
        std::memcpy(&found, elements.data() + static_cast<size_t>(index) * sizeof found, sizeof found);
        return found;
    }
};

struct Limits {
    int64_t rows, elements, id, string, pixels;  // pixels: negative where strings are no pictures
};

template <typename T>
bool element(Reader& json, Column&, T& value) {
    return json.number(value);
}

bool element(Reader& json, Column& column, Part& value) {
    value.start = column.text.size();
    if (!json.string(column.text)) return false;
    value.size = column.text.size() - value.start;
    return true;
}

// Takes lists nested `rank - depth` deep, with numbers at the bottom, all of one shape; an unknown size is that of the
// first list there.
template <typename T>
bool nest(Reader& json, const Input& input, Column& column, int depth, int64_t most) {
    if (depth == input.rank) {
        T value;
        if (!element(json, column, value)) return false;
        column.elements.add(reinterpret_cast<const char*>(&value), sizeof value);
        return column.elements.ok() && column.elements.size() / sizeof(T) <= static_cast<size_t>(most);
    }
    if (!json.take('[')) return false;
    int64_t count = 0, &size = column.dims[depth];
    if (depth + 1 == input.rank) {  // the innermost list, without a call for each number
        do {
            T value;
            char* place = column.elements.room(sizeof value);
            if (!place || !element(json, column, value)) return false;
            std::memcpy(place, &value, sizeof value);
            column.elements.used(sizeof value);
            ++count;
        } while (json.take(','));
        if (column.elements.size() / sizeof(T) > static_cast<size_t>(most)) return false;
    } else {
        do {
            if (!nest<T>(json, input, column, depth + 1, most)) return false;
            ++count;
        } while (json.take(','));
    }
    if (!json.take(']')) return false;
    if (size < 0) size = count;
    return size == count;
}

bool nest(Reader& json, const Input& input, Column& column, int depth, int64_t most) {
    switch (input.type) {
        case FLOAT: return nest<float>(json, input, column, depth, most);
        case DOUBLE: return nest<double>(json, input, column, depth, most);
        case INT8: return nest<int8_t>(json, input, column, depth, most);
        case INT16: return nest<int16_t>(json, input, column, depth, most);
        case INT32: return nest<int32_t>(json, input, column, depth, most);
        case INT64: return nest<int64_t>(json, input, column, depth, most);
        case UINT8: return nest<uint8_t>(json, input, column, depth, most);
        case UINT16: return nest<uint16_t>(json, input, column, depth, most);
        case UINT32: return nest<uint32_t>(json, input, column, depth, most);
        case UINT64: return nest<uint64_t>(json, input, column, depth, most);
        case STRING: return nest<Part>(json, input, column, depth, most);
        default: return false;
    }
}

// How many pixels a picture says that it has: what serving/images.py reads, of the two commonest formats. -1: another.
int64_t pixels(const char* text, size_t size) {
    const auto* data = reinterpret_cast<const unsigned char*>(text);
    const auto begins = [&](const char* with, size_t length) {
        return size >= length && !std::memcmp(text, with, length);
    };
    const auto number = [&](size_t at, int bytes) {
        int64_t value = 0;
        for (int index = 0; index < bytes; ++index) value = value << 8 | data[at + static_cast<size_t>(index)];
        return value;
    };
    if (begins("\x89PNG\r\n\x1a\n", 8)) {
        if (size < 24) return 0;
        const int64_t width = number(16, 4), height = number(20, 4);
        return width >> 31 || height >> 31 ? -1 : width * height;
    }
    if (begins("\xff\xd8", 2)) {
        size_t at = 2;
        for (int block = 0; block < 4096; ++block) {
            while (at < size && data[at] != 0xff) ++at;
            while (at < size && data[at] == 0xff) ++at;
            if (at >= size) return 0;
            const unsigned char marker = data[at++];
            if (marker <= 0x01 || (marker >= 0xd0 && marker <= 0xd8)) continue;  // no length behind it
            if (marker == 0xd9 || marker == 0xda) return 0;
            const bool frame = marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc;
            if (frame) return size - at < 7 ? 0 : number(at + 3, 2) * number(at + 5, 2);
            if (size - at < 2) return 0;
            at += static_cast<size_t>(number(at, 2));
        }
        return -1;
    }
    if (begins("\xff\x0a", 2) || begins("\0\0\0\x0cJXL ", 8)) return -1;
    return begins("GIF", 3) || begins("BM", 2) || begins("RIFF", 4) ? -1 : 0;
}

enum Form { ROWS, COLUMNS };

// What a request asks for.
class Call {
  public:
    const Signature* signature = nullptr;
    Column columns[MAX_TENSORS];

    void of(const Signature& one) {
        signature = &one;
        for (int place = 0; place < one.inputs; ++place)
            std::memcpy(columns[place].dims, one.input[place].dims, sizeof columns[place].dims);
    }
    // The input of a name, -1 where there is none.
    int find(const Text& name) const {
        for (int place = 0; place < signature->inputs; ++place)
            if (signature->input[place].name.is(name)) return place;
        return -1;
    }
    bool within(const Limits& limits) {
        int64_t elements = 0;
        for (int place = 0; place < signature->inputs; ++place) {
            const Input& input = signature->input[place];
            const int64_t count = columns[place].count(input.type);
            elements += count;
            if (input.rank && columns[place].dims[0] > limits.rows) return false;
            if (input.type == STRING && !strings_within(columns[place], count, limits)) return false;
        }
        return elements <= limits.elements;
    }

  private:
    static bool strings_within(Column& column, int64_t count, const Limits& limits) {
        int64_t total = 0;
        for (int64_t index = 0; index < count; ++index) {
            const Part part = column.part(index);
            if (part.size > static_cast<size_t>(limits.string)) return false;
            if (limits.pixels < 0) continue;
            const int64_t one = pixels(column.text.data() + part.start, part.size);
            if (one < 0 || one > limits.pixels || (total += one) > limits.pixels) return false;
        }
        return true;
    }
};

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
