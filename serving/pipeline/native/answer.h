// The way of requests: their bodies become calls, the calls are run, as many together as may be, and the results become
// bodies.

#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <memory>
#include <optional>
#include <string_view>
#include <variant>

#include "engines/engine.h"
#include "model.h"
#include "protocols/infer.h"
#include "protocols/infer_answer.h"
#include "protocols/predict.h"

namespace accelerator {

inline int64_t now() {  // what time.perf_counter_ns reads
    timespec time{};
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * int64_t{1000000000} + time.tv_nsec;
}

// What is about to be run, written where a parent process reads it if this one dies: "f: x [3, 4], y [3]". The address is
// of 512 bytes: the text's size in two, and the text.
class Note {
  public:
    explicit Note(unsigned char* address) : address_(address) {}

    // `rows`, where not 0, is how many rows the run has.
    void write(const Call& call, int64_t rows) {
        if (!address_) return;
        const Signature& signature = *call.signature;
        size_ = 0;
        add(signature.name);
        for (size_t index = 0; index < signature.input_count; ++index) {
            add(index ? ", " : ": ");
            add(signature.inputs[index].name);
            add(" [");
            for (size_t axis = 0; axis < signature.inputs[index].rank; ++axis) {
                std::array<char, 24> number;
                const int64_t dim = rows && !axis ? rows : call.columns[index].dims[axis];
                const int size = std::snprintf(number.data(), number.size(), axis ? ", %lld" : "%lld",
                                               static_cast<long long>(dim));
                add({number.data(), static_cast<size_t>(size)});
            }
            add("]");
        }
        address_[0] = address_[1] = 0;  // no size while the text changes
        std::memcpy(address_ + 2, text_.data(), size_);
        address_[0] = static_cast<unsigned char>(size_ & 255);
        address_[1] = static_cast<unsigned char>(size_ >> 8);
    }

  private:
    void add(std::string_view text) {
        const size_t count = std::min(text.size(), text_.size() - size_);
        std::memcpy(text_.data() + size_, text.data(), count);
        size_ += count;
    }

    unsigned char* address_;
    std::array<char, 510> text_;
    size_t size_ = 0;
};

// A request, and what becomes of it.
struct Item {
    std::string_view body;
    std::optional<size_t> json_size;  // of an infer request
    Options options;                  // of its address
    std::variant<std::monostate, Predict, Infer> request;
    Answer answer;
    Item* next = nullptr;  // of the same run
    bool ran = false;

    [[nodiscard]] Call& call() {
        if (auto* const predict = std::get_if<Predict>(&request)) return *predict;
        return *std::get_if<Infer>(&request);
    }
    [[nodiscard]] bool waits() const { return !answer.declined && !ran; }
    void join(Item& other) {
        next = &other;
        call().next = &other.call();
    }
    void part() {
        next = nullptr;
        call().next = nullptr;
    }

    void decode(const Model& model) {
        answer.decoding = now();
        answer.declined = json_size ? request.emplace<Infer>().decode(model, body, *json_size, options)
                                    : request.emplace<Predict>().decode(model, body, options);
        if (!answer.declined) answer.declined = call().is_whole();
        if (answer.declined) return;
        answer.signature = call().signature->index;
        answer.rows = call().rows();
        answer.decoded = now();
    }
    void encode(const Model& model, Results& results) {
        for (size_t index = 0; index < call().signature->output_count; ++index) results[index].settle(model.null);
        if (const auto* const predict = std::get_if<Predict>(&request))
            answer.declined = accelerator::encode(*predict, model, results, answer);
        else
            answer.declined = accelerator::encode(*std::get_if<Infer>(&request), model, results, answer);
        answer.encoded = now();
    }
};

// Answers requests that came at the same time. Those of one signature whose rows have the same shapes share a run, up to
// the largest size that the signature may run; where such a run fails, each of them is run by itself.
class Round {
  public:
    Round(const Model& model, Note note, Item* items, size_t count)
        : model_(model), note_(note), items_(items), count_(count) {}

    void answer() {
        for (size_t index = 0; index < count_; ++index) items_[index].decode(model_);
        for (size_t index = 0; index < count_; ++index)
            if (items_[index].waits()) run(items_[index], join_others(index));
    }

  private:
    // Joins the requests that may share the run of the first; returns how many rows it has, 0 where as many as the first.
    int64_t join_others(size_t first) {
        Item* last = &items_[first];
        const Call& call = last->call();
        const Signature& signature = *call.signature;
        int64_t rows = own_rows(call);
        if (!signature.shares(rows)) return signature.own_size(rows);
        for (size_t index = first + 1; index < count_; ++index) {
            Item& other = items_[index];
            if (!other.waits() || !call.joins(other.call())) continue;
            const int64_t more = own_rows(other.call());
            if (!signature.shares(more) || !signature.run_size(rows + more)) continue;
            rows += more;
            last->join(other);
            last = &other;
        }
        return signature.run_size(std::max(rows, signature.smallest));
    }
    // The rows of every input, 0 where they differ or are not to be counted.
    [[nodiscard]] static int64_t own_rows(const Call& call) {
        return call.signature->size_count || call.signature->smallest > 1 ? call.shared_rows() : 0;
    }

    void run(Item& first, int64_t rows) {
        const std::unique_ptr<Run, EndRun> run = model_.engine->begin();
        const Signature& signature = *first.call().signature;
        Declined declined = run ? run->feed(first.call(), rows) : Decline::memory;
        if (!declined) {
            note_.write(first.call(), rows);
            declined = run->run(signature);
        }
        const int code = declined ? 0 : run->code();
        if (first.next && (declined || code)) return run_each(first);
        Results results;
        const int64_t ran = now();
        if (!declined && !code) declined = look(*run, signature, rows, results);
        int64_t row = 0;
        for (Item* item = &first; item; item = item->next) {
            item->ran = true;
            item->answer.ran = ran;
            item->answer.declined = declined;
            item->answer.code = code;
            if (declined) continue;
            if (code) {
                item->answer.body.add(run->message());
            } else {
                encode(*item, results, rows ? item->call().shared_rows() : 0, row);
            }
        }
    }

    // Reads the outputs; in a shared run each of them has `rows` rows.
    static Declined look(const Run& run, const Signature& signature, int64_t rows, Results& results) {
        if (Declined declined = run.look(signature, results)) return declined;
        for (size_t index = 0; rows && index < signature.output_count; ++index)
            if (!results[index].rank || results[index].dims[0] != rows) return Decline::result;
        return {};
    }

    // Encodes the outputs, or so many rows of them from `row` on, and moves `row` behind these.
    void encode(Item& item, const Results& results, int64_t rows, int64_t& row) const {
        Results own = results;
        for (size_t index = 0; rows && index < item.call().signature->output_count; ++index) own[index].cut(row, rows);
        row += rows;
        item.encode(model_, own);
    }

    void run_each(Item& first) {
        for (Item *item = &first, *next = nullptr; item; item = next) {
            next = item->next;
            item->part();
            run(*item, item->call().signature->own_size(item->call().shared_rows()));
        }
    }

    const Model& model_;
    Note note_;
    Item* items_;
    size_t count_;
};

}  // namespace accelerator
