// The quick way of a request for predictions: a body of numbers becomes tensors, the tensors are run, the answer becomes
// a body, in one call and without a Python object per number or per step. It knows the predict requests of TensorFlow
// Serving and the infer requests of the Open Inference Protocol, in JSON and in binary.
//
// It is an accelerator in the sense of PEP 399: the code in serving/ does all of this and more, says what is wrong with
// a bad request, and is what this is tested against. Here nothing is refused and nothing is reported: whatever is not
// plain, or not right, is declined (None), and goes the way through serving/. So the answer has the same bytes
// whichever way was taken.
//
// It is limited to the stable ABI: one library serves CPython 3.10 and later.

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030A0000
#include <Python.h>

#include <dlfcn.h>
#include <time.h>

#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

namespace {

// TensorFlow's C API: tensorflow/c/c_api.h, tf_tensor.h, tf_status.h, tf_datatype.h

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
    FLOAT = 1, DOUBLE = 2, INT32 = 3, UINT8 = 4, INT16 = 5, INT8 = 6, INT64 = 9, BOOL = 10, UINT16 = 17, UINT32 = 22,
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
    void (*run)(TF_Session*, const TF_Buffer*, const TF_Output*, TF_Tensor* const*, int, const TF_Output*, TF_Tensor**,
                int, const TF_Operation* const*, int, TF_Buffer*, TF_Status*);

    // Returns the name of the first function that is not there, nullptr where all are.
    const char* find(void* handle) {
        const struct {
            const char* name;
            void* place;
        } wanted[] = {
            {"TF_NewStatus", &new_status},       {"TF_DeleteStatus", &delete_status},
            {"TF_GetCode", &get_code},           {"TF_Message", &message},
            {"TF_AllocateTensor", &allocate_tensor}, {"TF_DeleteTensor", &delete_tensor},
            {"TF_TensorType", &tensor_type},     {"TF_NumDims", &num_dims},
            {"TF_Dim", &dim},                    {"TF_TensorByteSize", &byte_size},
            {"TF_TensorData", &data},            {"TF_SessionRun", &run},
        };
        for (const auto& [name, place] : wanted) {
            void* address = dlsym(handle, name);
            if (!address) return name;
            std::memcpy(place, &address, sizeof address);
        }
        return nullptr;
    }
};

constexpr int VERSION = 1;  // of what this and serving/accelerator.py say to each other

constexpr int MAX_RANK = 32, MAX_TENSORS = 16, MAX_SIGNATURES = 16;

size_t item_size(int type) {
    switch (type) {
        case INT8: case UINT8: case BOOL: return 1;
        case INT16: case UINT16: return 2;
        case FLOAT: case INT32: case UINT32: return 4;
        case DOUBLE: case INT64: case UINT64: return 8;
        default: return 0;
    }
}

struct Text {  // not ended by a zero
    const char* start = nullptr;
    size_t size = 0;

    bool is(const Text& other) const { return size == other.size && std::memcmp(start, other.start, size) == 0; }
    bool is(const char* other) const { return is(Text{other, std::strlen(other)}); }
};

struct Input {
    Text name, datatype;  // what the Open Inference Protocol calls the type
    int type = 0;
    int rank = 0;
    int64_t dims[MAX_RANK];  // -1: any
};

struct Output {
    Text name, key, datatype;  // the key: the name as JSON, with quotes and colon
    int type = 0;
};

struct Signature {
    Text name;
    int inputs = 0, outputs = 0;
    Input input[MAX_TENSORS];
    Output output[MAX_TENSORS];
    TF_Output feeds[MAX_TENSORS], fetches[MAX_TENSORS];
};

// Bytes that grow; `ok` is false from the first allocation on that failed.
class Bytes {
  public:
    Bytes() = default;
    Bytes(const Bytes&) = delete;
    Bytes& operator=(const Bytes&) = delete;
    ~Bytes() { std::free(data_); }

    void free() {
        std::free(data_);
        data_ = nullptr;
        size_ = capacity_ = 0;
    }
    void take(Bytes& other) {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        std::swap(capacity_, other.capacity_);
    }

    char* data() { return data_; }
    size_t size() const { return size_; }
    bool ok() const { return ok_; }

    // Makes room for `more` bytes and returns where they begin; `used` says how many were written there.
    char* room(size_t more) {
        if (capacity_ - size_ < more && !grow(more)) return nullptr;
        return data_ + size_;
    }
    void used(size_t more) { size_ += more; }

    void add(const char* start, size_t count) {
        if (char* place = room(count)) {
            std::memcpy(place, start, count);
            size_ += count;
        }
    }
    void add(const Text& text) { add(text.start, text.size); }
    void add(char one) { add(&one, 1); }

  private:
    bool grow(size_t more) {
        size_t wanted = capacity_ * 2 > size_ + more ? capacity_ * 2 : size_ + more + 1024;
        void* moved = ok_ ? std::realloc(data_, wanted) : nullptr;
        if (!moved) {
            ok_ = false;
            return false;
        }
        data_ = static_cast<char*>(moved);
        capacity_ = wanted;
        return true;
    }

    char* data_ = nullptr;
    size_t size_ = 0, capacity_ = 0;
    bool ok_ = true;
};

// Reading JSON. Every function returns false where it declines.

const double POWERS[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                         1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

// No step asks for the end: what follows the text belongs to the same bytes object, which ends with a zero, and whoever
// has read a whole text asks whether that was its end.
class Reader {
  public:
    Reader(const char* start, size_t size) : at_(start), end_(start + size) {}

    // Skips white space and takes `wanted` if it is next.
    bool take(char wanted) {
        skip();
        if (*at_ != wanted) return false;
        ++at_;
        return true;
    }
    bool next_is(char wanted) {
        skip();
        return *at_ == wanted;
    }
    // What follows the text may look like white space.
    bool at_end() {
        while (at_ < end_ && is_space(*at_)) ++at_;
        return at_ == end_;
    }

    bool flag(bool& found) {
        skip();
        found = *at_ == 't';
        const size_t size = found ? 4 : 5;
        if (std::strncmp(at_, found ? "true" : "false", size) != 0) return false;
        at_ += size;
        return true;
    }

    // Takes a string without escapes, of ASCII; of any other it would have to be told whether it is UTF-8.
    bool text(Text& found) {
        if (!take('"')) return false;
        const char* start = at_;
        for (; *at_ != '"'; ++at_)
            if (*at_ == '\\' || static_cast<signed char>(*at_) < 0x20) return false;
        found = {start, static_cast<size_t>(at_ - start)};
        ++at_;
        return true;
    }

    template <typename T>
    bool number(T& found) {
        skip();
        const char* const start = at_;
        const char* at = start;
        const bool negative = *at == '-';
        if (negative) ++at;
        const char* const digits = at;
        uint64_t mantissa = 0;
        while (is_digit(*at)) mantissa = mantissa * 10 + static_cast<uint64_t>(*at++ - '0');
        int64_t count = at - digits, exponent = 0;
        if (count == 0 || (count > 1 && *digits == '0')) return false;
        bool whole = true;
        if (*at == '.') {
            whole = false;
            const char* const decimals = ++at;
            while (is_digit(*at)) mantissa = mantissa * 10 + static_cast<uint64_t>(*at++ - '0');
            if (at == decimals) return false;
            count += at - decimals;
            exponent = decimals - at;
        }
        if (*at == 'e' || *at == 'E') {
            whole = false;
            ++at;
            const bool down = *at == '-';
            if (down || *at == '+') ++at;
            int64_t power = 0;
            const char* const first = at;
            for (; is_digit(*at); ++at)
                if (power < 100000) power = power * 10 + (*at - '0');
            if (at == first) return false;
            exponent += down ? -power : power;
        }
        at_ = at;
        if (whole) return count <= 18 && store(negative, mantissa, found);  // of more, some are beyond 64 bits
        if constexpr (std::is_floating_point_v<T>) {
            double value;
            // Both numbers are doubles themselves then, and one operation rounds once - Clinger 1990.
            if (count <= 19 && mantissa <= uint64_t{1} << 53 && exponent >= -22 && exponent <= 22) {
                value = static_cast<double>(mantissa);
                value = exponent < 0 ? value / POWERS[-exponent] : value * POWERS[exponent];
                if (negative) value = -value;
            } else {
                const auto read = std::from_chars(start, at, value);
                if (read.ec != std::errc() || read.ptr != at) return false;
            }
            found = static_cast<T>(value);
            return std::isfinite(found);
        }
        return false;
    }

  private:
    void skip() {
        while (is_space(*at_)) ++at_;
    }
    static bool is_space(char one) { return one == ' ' || one == '\n' || one == '\t' || one == '\r'; }
    static bool is_digit(char one) { return one >= '0' && one <= '9'; }

    template <typename T>
    static bool store(bool negative, uint64_t magnitude, T& found) {
        const int64_t value = negative ? -static_cast<int64_t>(magnitude) : static_cast<int64_t>(magnitude);
        if constexpr (std::is_floating_point_v<T>) {
            found = static_cast<T>(static_cast<double>(value));  // in two steps, as serving/ does
            return true;
        } else if constexpr (std::is_unsigned_v<T>) {
            found = static_cast<T>(magnitude);
            return value >= 0 && magnitude <= std::numeric_limits<T>::max();
        } else {
            found = static_cast<T>(value);
            return value >= std::numeric_limits<T>::min() && value <= std::numeric_limits<T>::max();
        }
    }

    const char *at_, *end_;
};

// One input on its way: its elements, and the shape that they turn out to have.
struct Column {
    Bytes elements;
    const char* given = nullptr;  // those that stand in the body as they are
    size_t given_size = 0;
    int64_t dims[MAX_RANK];

    const char* data() { return given ? given : elements.data(); }
    size_t size() { return given ? given_size : elements.size(); }
};

struct Limits {
    int64_t rows, elements, id;
};

// Takes lists nested `rank - depth` deep, with numbers at the bottom, all of one shape; an unknown size is that of the
// first list there.
template <typename T>
bool nest(Reader& json, const Input& input, Column& column, int depth, int64_t most) {
    if (depth == input.rank) {
        T value;
        if (!json.number(value)) return false;
        column.elements.add(reinterpret_cast<const char*>(&value), sizeof value);
        return column.elements.ok() && column.elements.size() / sizeof(T) <= static_cast<size_t>(most);
    }
    if (!json.take('[')) return false;
    int64_t count = 0, &size = column.dims[depth];
    if (depth + 1 == input.rank) {  // the innermost list, without a call for each number
        do {
            T value;
            char* place = column.elements.room(sizeof value);
            if (!place || !json.number(value)) return false;
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
        default: return false;
    }
}

enum Form { ROWS, COLUMNS };

// What a request asks for.
struct Call {
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
            elements += static_cast<int64_t>(columns[place].size() / item_size(input.type));
            if (input.rank && columns[place].dims[0] > limits.rows) return false;
        }
        return elements <= limits.elements;
    }
};

// A predict request of TensorFlow Serving's: tensorflow_serving/g3doc/api_rest.md
class Predict : public Call {
  public:
    Predict(const char* start, size_t size) : start_(start), size_(size) {}

    // `signatures[0]` answers where none is named. One that is named behind the numbers is declined: they cannot be read
    // before it is known.
    bool read(const Signature* signatures, int count, const Limits& limits) {
        Reader json(start_, size_);
        const Signature* called = signatures;
        if (!json.take('{')) return false;
        Text key;
        if (!json.text(key) || !json.take(':')) return false;
        if (key.is("signature_name")) {
            Text name;
            if (!json.text(name) || !json.take(',')) return false;
            called = nullptr;
            for (int place = 0; place < count; ++place)
                if (signatures[place].name.is(name)) called = signatures + place;
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
        if (!ahead.next_is('{')) {
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
        if (json.next_is('{')) return members(json, 0, limits);
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

    bool read(const Signature& called, const Limits& limits) {
        Reader json(start_, size_);
        of(called);
        if (!json.take('{')) return false;
        enum { ID = 1, INPUTS = 2, OUTPUTS = 4, PARAMETERS = 8 };
        int seen = 0;
        do {
            Text key;
            if (!json.text(key) || !json.take(':')) return false;
            const int one = key.is("id") ? ID : key.is("inputs") ? INPUTS : key.is("outputs") ? OUTPUTS
                          : key.is("parameters") ? PARAMETERS : 0;
            if (!one || seen & one) return false;
            seen |= one;
            if (!(one == ID ? json.text(id) : one == INPUTS ? inputs(json, limits) : one == OUTPUTS ? outputs(json)
                  : parameter(json, "binary_data_output", binary_))) return false;
        } while (json.take(','));
        if (!json.take('}') || !json.at_end() || !(seen & INPUTS) || next_ != whole_) return false;
        if (id.start && id.size > static_cast<size_t>(limits.id)) return false;
        if (!asked)
            for (; asked < called.outputs; ++asked) output[asked] = asked;
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
            const int one = key.is("name") ? NAME : key.is("shape") ? SHAPE : key.is("datatype") ? DATATYPE
                          : key.is("data") ? DATA : key.is("parameters") ? PARAMETERS : 0;
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
            const size_t wanted = static_cast<size_t>(count) * item_size(signature->input[place].type);
            if (size < 0 || static_cast<size_t>(size) != wanted || wanted > whole_ - next_) return false;
            columns[place].given = start_ + next_;
            columns[place].given_size = wanted;
            next_ += wanted;
        }
        return true;
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

// Writing JSON, as orjson does.

// As orjson writes a number, or as Python's json does, which has another exponent.
enum Style { SHORT, PYTHON };

enum class Flag : uint8_t {};  // an element of a bool tensor

template <typename T>
void add_float(Bytes& json, T value, Style style) {
    char* place = json.room(40);
    if (!place) return;
    char* const first = place;
    if (std::signbit(value)) *place++ = '-';
    if (value == 0) {
        std::memcpy(place, "0.0", 3);
        json.used(static_cast<size_t>(place + 3 - first));
        return;
    }
    char written[32];  // d.ddde±dd, the shortest digits that are read back as this number
    char* end = std::to_chars(written, written + sizeof written, std::fabs(value), std::chars_format::scientific).ptr;
    char digits[24];
    int count = 0;
    char* from = written;
    for (; from != end && *from != 'e'; ++from)
        if (*from != '.') digits[count++] = *from;
    int exponent = 0;
    if (from + 2 < end) std::from_chars(from + (from[1] == '+' ? 2 : 1), end, exponent);
    const int point = exponent + 1;
    const int least = style == PYTHON ? -3 : sizeof(T) == 4 ? -5 : -4;
    const int most = style == PYTHON ? 16 : sizeof(T) == 4 ? 13 : 16;
    if (point > 0 && point <= most) {
        for (int index = 0; index < point; ++index) *place++ = index < count ? digits[index] : '0';
        *place++ = '.';
        if (count <= point) *place++ = '0';
        for (int index = point; index < count; ++index) *place++ = digits[index];
    } else if (point <= 0 && point >= least) {
        *place++ = '0';
        *place++ = '.';
        for (int index = point; index < 0; ++index) *place++ = '0';
        for (int index = 0; index < count; ++index) *place++ = digits[index];
    } else {
        *place++ = digits[0];
        if (count > 1) *place++ = '.';
        for (int index = 1; index < count; ++index) *place++ = digits[index];
        *place++ = 'e';
        *place++ = exponent < 0 ? '-' : '+';
        const int size = std::abs(exponent);
        if (style == PYTHON && size < 10) *place++ = '0';
        place = std::to_chars(place, place + 4, size).ptr;
    }
    json.used(static_cast<size_t>(place - first));
}

template <typename T>
void add_number(Bytes& json, T value, Style style, bool null) {
    if constexpr (std::is_same_v<T, Flag>) {
        json.add(value == Flag{} ? "false" : "true", value == Flag{} ? 5 : 4);
    } else if constexpr (std::is_floating_point_v<T>) {
        if (std::isfinite(value))
            add_float(json, value, style);
        else if (null)
            json.add("null", 4);
        else if (std::isnan(value))
            json.add("NaN", 3);
        else
            json.add(value > 0 ? "Infinity" : "-Infinity", value > 0 ? 8 : 9);
    } else if (char* place = json.room(24)) {
        json.used(static_cast<size_t>(std::to_chars(place, place + 24, value).ptr - place));
    }
}

// One output of a run. Numbers of a tensor that has one which is not finite are written as Python's json does.
struct Result {
    const char* data = nullptr;
    int type = 0, rank = 0;
    int64_t dims[MAX_RANK];
    int64_t step = 0;  // elements of a row
    int64_t bytes = 0;
    Style style = SHORT;

    template <typename T>
    bool all_finite(int64_t count) const {
        for (int64_t index = 0; index < count; ++index) {
            T value;
            std::memcpy(&value, data + index * static_cast<int64_t>(sizeof value), sizeof value);
            if (!std::isfinite(value)) return false;
        }
        return true;
    }

    template <typename T>
    const char* add_nest(Bytes& json, const char* from, int depth, bool null) const {
        if (depth == rank) {
            T value;
            std::memcpy(&value, from, sizeof value);
            add_number(json, value, style, null);
            return from + sizeof value;
        }
        json.add('[');
        for (int64_t index = 0; index < dims[depth]; ++index) {
            if (index) json.add(',');
            from = add_nest<T>(json, from, depth + 1, null);
        }
        json.add(']');
        return from;
    }

    void add_flat(Bytes& json, bool null) {
        dims[0] = bytes / static_cast<int64_t>(item_size(type));
        rank = 1;
        add(json, 0, 0, null);
    }

    void add(Bytes& json, int depth, int64_t row, bool null) const {
        const char* from = data + row * step * static_cast<int64_t>(item_size(type));
        switch (type) {
            case FLOAT: add_nest<float>(json, from, depth, null); break;
            case DOUBLE: add_nest<double>(json, from, depth, null); break;
            case INT8: add_nest<int8_t>(json, from, depth, null); break;
            case INT16: add_nest<int16_t>(json, from, depth, null); break;
            case INT32: add_nest<int32_t>(json, from, depth, null); break;
            case INT64: add_nest<int64_t>(json, from, depth, null); break;
            case UINT8: add_nest<uint8_t>(json, from, depth, null); break;
            case UINT16: add_nest<uint16_t>(json, from, depth, null); break;
            case UINT32: add_nest<uint32_t>(json, from, depth, null); break;
            case UINT64: add_nest<uint64_t>(json, from, depth, null); break;
            case BOOL: add_nest<Flag>(json, from, depth, null); break;
            default: break;
        }
    }
};

// What a run holds of TensorFlow's, given back at its end.
class Run {
  public:
    explicit Run(const Library& tf) : tf_(tf), status_(tf.new_status()) {}
    Run(const Run&) = delete;
    Run& operator=(const Run&) = delete;
    ~Run() {
        for (TF_Tensor* tensor : fed_)
            if (tensor) tf_.delete_tensor(tensor);
        for (TF_Tensor* tensor : fetched_)
            if (tensor) tf_.delete_tensor(tensor);
        tf_.delete_status(status_);
    }

    bool feed(Call& call) {
        const Signature& signature = *call.signature;
        for (int place = 0; place < signature.inputs; ++place) {
            const Input& input = signature.input[place];
            Column& column = call.columns[place];
            size_t wanted = item_size(input.type);
            for (int axis = 0; axis < input.rank; ++axis) wanted *= static_cast<size_t>(column.dims[axis]);
            if (wanted != column.size()) return false;
            TF_Tensor* tensor = tf_.allocate_tensor(input.type, column.dims, input.rank, wanted);
            if (!tensor) return false;
            fed_[place] = tensor;
            void* const data = tf_.data(tensor);
            if (!data) return false;  // there was no memory
            std::memcpy(data, column.data(), wanted);
            column.elements.free();
        }
        return true;
    }

    bool run(TF_Session* session, const Signature& signature) {
        tf_.run(session, nullptr, signature.feeds, fed_, signature.inputs, signature.fetches, fetched_,
                signature.outputs, nullptr, 0, nullptr, status_);
        for (int place = 0; place < signature.outputs; ++place)
            if (!fetched_[place]) return false;  // "On failure, output_values[] contains NULLs" - c_api.h
        return true;
    }
    int code() const { return tf_.get_code(status_); }
    const char* message() const { return tf_.message(status_); }

    bool write(const Predict& call, const Text&, bool null, Bytes& json, size_t&) {
        const Signature& signature = *call.signature;
        const Form form = call.form;
        Result results[MAX_TENSORS];
        for (int place = 0; place < signature.outputs; ++place)
            if (!look(fetched_[place], signature.output[place].type, null, results[place])) return false;
        const bool alone = signature.outputs == 1;
        if (form == COLUMNS || alone) {
            if (form == ROWS && !results[0].rank) return false;
            if (form == ROWS)
                json.add(Text{"{\"predictions\":", 15});
            else
                json.add(Text{"{\"outputs\":", 11});
            for (int place = 0; place < signature.outputs; ++place) {
                if (!alone) json.add(place ? ',' : '{');
                if (!alone) json.add(signature.output[place].key.start, signature.output[place].key.size);
                results[place].add(json, 0, 0, null);
            }
            if (!alone) json.add('}');
        } else {
            for (int place = 0; place < signature.outputs; ++place)
                if (!results[place].rank || results[place].dims[0] != results[0].dims[0]) return false;
            json.add(Text{"{\"predictions\":[", 16});
            for (int64_t row = 0; row < results[0].dims[0]; ++row) {
                if (row) json.add(',');
                for (int place = 0; place < signature.outputs; ++place) {
                    json.add(place ? ',' : '{');
                    json.add(signature.output[place].key.start, signature.output[place].key.size);
                    results[place].add(json, 1, row, null);
                }
                json.add('}');
            }
            json.add(']');
        }
        json.add('}');
        return json.ok();
    }

    // `head` is how the answer begins, {"model_name":…,"model_version":…; `size` becomes that of the JSON where binary
    // tensors follow it.
    bool write(const Infer& call, const Text& head, bool null, Bytes& json, size_t& size) {
        const Signature& signature = *call.signature;
        Result results[MAX_TENSORS];
        bool any = false;
        json.add(head);
        if (call.id.start) {
            json.add(Text{",\"id\":\"", 7});
            json.add(call.id);
            json.add('"');
        }
        json.add(Text{",\"outputs\":[", 12});
        for (int index = 0; index < call.asked; ++index) {
            const Output& output = signature.output[call.output[index]];
            Result& result = results[index];
            if (!look(fetched_[call.output[index]], output.type, null, result)) return false;
            if (index) json.add(',');
            json.add(Text{"{\"name\":", 8});
            json.add(Text{output.key.start, output.key.size - 1});
            json.add(Text{",\"shape\":[", 10});
            for (int axis = 0; axis < result.rank; ++axis) {
                if (axis) json.add(',');
                add_number(json, result.dims[axis], SHORT, false);
            }
            json.add(Text{"],\"datatype\":\"", 14});
            json.add(output.datatype);
            if (call.binary[index]) {
                any = true;
                json.add(Text{"\",\"parameters\":{\"binary_data_size\":", 35});
                add_number(json, result.bytes, SHORT, false);
                json.add(Text{"}}", 2});
            } else {
                json.add(Text{"\",\"data\":", 9});
                result.add_flat(json, null);
                json.add('}');
            }
        }
        json.add(Text{"]}", 2});
        if (any) {
            size = json.size();
            for (int index = 0; index < call.asked; ++index)
                if (call.binary[index]) json.add(results[index].data, static_cast<size_t>(results[index].bytes));
        }
        return json.ok();
    }

  private:
    bool look(TF_Tensor* tensor, int type, bool null, Result& result) {
        result.type = tf_.tensor_type(tensor);
        result.rank = tf_.num_dims(tensor);
        if (result.type != type || result.rank > MAX_RANK) return false;
        int64_t count = 1;
        for (int axis = 0; axis < result.rank; ++axis) count *= result.dims[axis] = tf_.dim(tensor, axis);
        if (static_cast<size_t>(count) * item_size(type) != tf_.byte_size(tensor)) return false;
        result.bytes = static_cast<int64_t>(tf_.byte_size(tensor));
        result.step = count && result.rank ? count / result.dims[0] : 0;
        result.data = static_cast<const char*>(tf_.data(tensor));
        if (!null && ((type == FLOAT && !result.all_finite<float>(count)) ||
                      (type == DOUBLE && !result.all_finite<double>(count))))
            result.style = PYTHON;
        return true;
    }

    const Library& tf_;
    TF_Status* status_;
    TF_Tensor* fed_[MAX_TENSORS] = {};
    TF_Tensor* fetched_[MAX_TENSORS] = {};
};

int64_t now() {  // what time.perf_counter_ns reads
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * int64_t{1000000000} + time.tv_nsec;
}

// The Python side: Predictor(...), an object to call with a body.

struct Predictor {
    PyObject_HEAD
    PyObject* kept;  // the Python objects whose memory is pointed at, and the session
    Library tf;
    TF_Session* session;
    Limits limits;
    Text head;  // of an infer request's answer
    int null;
    int count;
    Signature signatures[MAX_SIGNATURES];
};

bool read_text(PyObject* value, Text& text) {
    char* start;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(value, &start, &size) < 0) return false;
    text = {start, static_cast<size_t>(size)};
    return true;
}

bool read_input(PyObject* value, Input& input, TF_Output& feed) {
    PyObject *name, *datatype, *dims;
    unsigned long long operation;
    if (!PyArg_ParseTuple(value, "SSiO!Ki", &name, &datatype, &input.type, &PyTuple_Type, &dims, &operation,
                          &feed.index) ||
        !read_text(name, input.name) || !read_text(datatype, input.datatype))
        return false;
    feed.oper = reinterpret_cast<TF_Operation*>(operation);
    Py_ssize_t rank = PyTuple_Size(dims);
    if (rank > MAX_RANK || !item_size(input.type) || input.type == BOOL) {
        PyErr_SetString(PyExc_ValueError, "an input of this type or rank is not for this way");
        return false;
    }
    input.rank = static_cast<int>(rank);
    for (int axis = 0; axis < input.rank; ++axis) {
        input.dims[axis] = PyLong_AsLongLong(PyTuple_GetItem(dims, axis));
        if (PyErr_Occurred()) return false;
    }
    return true;
}

bool read_output(PyObject* value, Output& output, TF_Output& fetch) {
    PyObject *name, *key, *datatype;
    unsigned long long operation;
    if (!PyArg_ParseTuple(value, "SSSiKi", &name, &key, &datatype, &output.type, &operation, &fetch.index) ||
        !read_text(name, output.name) || !read_text(key, output.key) || !read_text(datatype, output.datatype))
        return false;
    fetch.oper = reinterpret_cast<TF_Operation*>(operation);
    if (!item_size(output.type)) PyErr_SetString(PyExc_ValueError, "an output of this type is not for this way");
    return item_size(output.type) != 0;
}

bool read_signature(PyObject* value, Signature& signature) {
    PyObject *name, *inputs, *outputs;
    if (!PyArg_ParseTuple(value, "SO!O!", &name, &PyTuple_Type, &inputs, &PyTuple_Type, &outputs) ||
        !read_text(name, signature.name))
        return false;
    Py_ssize_t fed = PyTuple_Size(inputs), fetched = PyTuple_Size(outputs);
    if (fed < 1 || fetched < 1 || fed > MAX_TENSORS || fetched > MAX_TENSORS) {
        PyErr_SetString(PyExc_ValueError, "this many inputs or outputs are not for this way");
        return false;
    }
    signature.inputs = static_cast<int>(fed);
    signature.outputs = static_cast<int>(fetched);
    for (int place = 0; place < signature.inputs; ++place)
        if (!read_input(PyTuple_GetItem(inputs, place), signature.input[place], signature.feeds[place])) return false;
    for (int place = 0; place < signature.outputs; ++place)
        if (!read_output(PyTuple_GetItem(outputs, place), signature.output[place], signature.fetches[place]))
            return false;
    return true;
}

PyObject* predictor_new(PyTypeObject* type, PyObject* arguments, PyObject*) {
    unsigned long long handle, session;
    long long rows, elements, id;
    int null;
    PyObject *signatures, *head, *owner;
    Text text;
    if (!PyArg_ParseTuple(arguments, "KKO!SLLLpO", &handle, &session, &PyTuple_Type, &signatures, &head, &rows,
                          &elements, &id, &null, &owner) ||
        !read_text(head, text))
        return nullptr;
    Py_ssize_t count = PyTuple_Size(signatures);
    if (count < 1 || count > MAX_SIGNATURES) {
        PyErr_SetString(PyExc_ValueError, "this many signatures are not for this way");
        return nullptr;
    }
    auto allocate = reinterpret_cast<allocfunc>(PyType_GetSlot(type, Py_tp_alloc));
    auto* self = reinterpret_cast<Predictor*>(allocate(type, 0));  // zeroed
    if (!self) return nullptr;
    self->kept = PyTuple_Pack(3, signatures, head, owner);
    self->head = text;
    self->session = reinterpret_cast<TF_Session*>(session);
    self->limits = {rows, elements, id};
    self->null = null;
    self->count = static_cast<int>(count);
    bool fine = self->kept != nullptr;
    for (int place = 0; fine && place < self->count; ++place)
        fine = read_signature(PyTuple_GetItem(signatures, place), self->signatures[place]);
    if (fine)
        if (const char* missing = self->tf.find(reinterpret_cast<void*>(handle))) {
            PyErr_Format(PyExc_ValueError, "the library has no %s", missing);
            fine = false;
        }
    if (fine) return reinterpret_cast<PyObject*>(self);
    Py_DecRef(reinterpret_cast<PyObject*>(self));
    return nullptr;
}

void predictor_dealloc(PyObject* object) {
    auto* self = reinterpret_cast<Predictor*>(object);
    PyTypeObject* type = Py_TYPE(object);
    Py_XDECREF(self->kept);
    reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free))(object);
    Py_DecRef(reinterpret_cast<PyObject*>(type));
}

bool read(const Predictor& self, Predict& call) { return call.read(self.signatures, self.count, self.limits); }
bool read(const Predictor& self, Infer& call) { return call.read(self.signatures[0], self.limits); }

template <typename Request, typename... Arguments>
PyObject* answer(const Predictor& self, Arguments... arguments) {
    long long decoding = now(), decoded = 0, ran = 0, encoded = 0, rows = 1;
    Py_ssize_t place = 0;
    size_t head = 0;
    int code = 0;
    bool fine;
    Bytes body, message;
    Py_BEGIN_ALLOW_THREADS
    {
        Request call(arguments...);
        fine = read(self, call);
        if (fine) {
            const Input& first = call.signature->input[0];
            if (first.rank && first.dims[0] < 0) rows = call.columns[0].dims[0];
            place = call.signature - self.signatures;
            decoded = now();
            Run run(self.tf);
            fine = run.feed(call);
            if (fine && !run.run(self.session, *call.signature)) {
                code = run.code();
                message.add(run.message(), std::strlen(run.message()));
                fine = false;
            }
            ran = now();
            fine = fine && run.write(call, self.head, self.null, body, head);
            encoded = now();
        }
    }
    Py_END_ALLOW_THREADS
    if (code) return Py_BuildValue("iy#", code, message.data(), static_cast<Py_ssize_t>(message.size()));
    if (!fine) Py_RETURN_NONE;
    return Py_BuildValue("y#nnLLLLL", body.data(), static_cast<Py_ssize_t>(body.size()), static_cast<Py_ssize_t>(head),
                         place, rows, decoding, decoded, ran, encoded);
}

PyObject* predictor_predict(PyObject* self, PyObject* body) {
    Text text;
    if (!read_text(body, text)) return nullptr;
    return answer<Predict>(*reinterpret_cast<Predictor*>(self), text.start, text.size);
}

PyObject* predictor_infer(PyObject* self, PyObject* arguments) {
    PyObject* body;
    Py_ssize_t size;
    Text text;
    if (!PyArg_ParseTuple(arguments, "Sn", &body, &size) || !read_text(body, text)) return nullptr;
    if (size < 0 || static_cast<size_t>(size) > text.size) Py_RETURN_NONE;
    return answer<Infer>(*reinterpret_cast<Predictor*>(self), text.start, static_cast<size_t>(size), text.size);
}

PyMethodDef methods[] = {
    {"predict", predictor_predict, METH_O,
     "predict(body) -> (answer, head, signature, rows, decoding, decoded, ran, encoded) | (code, message) | None\n\n"
     "Answer a predict request of TensorFlow Serving's; None for one that is to go the other way, (code, message) for\n"
     "one that TensorFlow refuses. `head` is the size of the JSON where binary tensors follow it, else 0. The\n"
     "signature is given by its place, the times by time.perf_counter_ns."},
    {"infer", predictor_infer, METH_VARARGS,
     "infer(body, size) -> the same\n\nAnswer an infer request of the Open Inference Protocol, of so many bytes of JSON."},
    {nullptr, nullptr, 0, nullptr},
};

char doc[] =
    "Predictor(library, session, signatures, head, max_rows, max_elements, max_id_length, null, owner)\n\n"
    "`library` is dlopen's handle, `session` a TF_Session*, both as numbers; `owner` keeps them. The first of the\n"
    "`signatures` answers where none is named; each is (name, inputs, outputs), of\n"
    "    (name, datatype, type, (size or -1, ...), TF_Operation*, index)\n"
    "    (name, key, datatype, type, TF_Operation*, index)\n"
    "a key being a JSON string with its colon. An infer request's answer begins with `head`. Raises ValueError for what\n"
    "this way does not take.";

PyType_Slot slots[] = {
    {Py_tp_new, reinterpret_cast<void*>(predictor_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(predictor_dealloc)},
    {Py_tp_methods, methods},
    {Py_tp_doc, doc},
    {0, nullptr},
};

PyType_Spec spec = {"_accelerator.Predictor", sizeof(Predictor), 0, Py_TPFLAGS_DEFAULT, slots};

PyModuleDef module = {PyModuleDef_HEAD_INIT, "_accelerator", nullptr, 0, nullptr, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__accelerator() {
    PyObject* made = PyModule_Create(&module);
    PyObject* type = made ? PyType_FromSpec(&spec) : nullptr;
    if (!type || PyModule_AddIntConstant(made, "VERSION", VERSION) < 0 || PyModule_AddObject(made, "Predictor", type) < 0) {
        Py_XDECREF(type);
        Py_XDECREF(made);
        return nullptr;
    }
    return made;
}
