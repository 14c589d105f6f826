"""A prediction in Python: decode, run, encode, and the handling of a refused body or batch.

The module imports NumPy and the codecs: `routes` imports it with the first request that the native codec declines.
"""

from time import perf_counter_ns

import numpy as np

from serving.core import settings
from serving.core.errors import CLIENTS_FAULT, InputError, RunError, plain
from serving.core.http import BadRequest, Response, TooLarge
from serving.core.telemetry import phases
from serving.pipeline.exchange import Answer, Exchange, stack
from serving.protocols import answers
from serving.protocols.call import Arrays, Call, Context
from serving.protocols.call import row_errors as wants_row_errors
from serving.protocols.options import from_query
from serving.protocols.sizes import check_arrays, check_memory, check_pictures

MOST_ROWS_TRIED = 256


def infer(exchange: Exchange) -> Response:
    """Answer with the outputs of one signature."""
    call = decode(exchange)
    outputs = run(exchange, call)
    return encode(exchange, call, outputs)


def decode(exchange: Exchange) -> Call:
    """Return the call that the body describes; raise BadRequest or TooLarge for a wrong body."""
    record, options, model = exchange.record, settings.current(), exchange.model
    exchange.context = Context(
        exchange.request.headers, model.name, model.version, from_query(exchange.request.query), options.key_field,
        options.non_finite == "null", model.source.labels, options,
    )  # fmt: skip
    record.decoding = perf_counter_ns()
    exchange.call = call = exchange.codec.decode(exchange.body, model.signatures, exchange.context)
    record.signature, record.rows = call.signature.name, batch_size(call)
    record.decoded = perf_counter_ns()
    return call


def run(exchange: Exchange, call: Call) -> Arrays:
    """Return the model's outputs by name.

    Raise TooLarge where the inputs exceed a limit, and InputError and RunError as `Model.run` does.
    """
    if call.failed and not call.inputs:
        return {}  # no row is valid
    model = exchange.model
    check_memory(check_arrays(call.inputs, call.context.limits))
    if model.source.pictures:
        _check_pictures(exchange, call)
    if exchange.failure is not None:
        raise exchange.failure
    if phases.pending:
        with phases.measured("run"):
            return model.run(call.signature, call.inputs)
    return model.run(call.signature, call.inputs)


def encode(exchange: Exchange, call: Call, outputs: Arrays) -> Response:
    """Return the response that holds the outputs."""
    exchange.record.ran = perf_counter_ns()
    exchange.call, exchange.outputs = call, outputs
    return exchange.codec.encode(call, outputs)


def _check_pictures(exchange: Exchange, call: Call) -> None:
    wrong = check_pictures(call.inputs, exchange.model.source.pictures, settings.current().max_pixels)
    if wrong:
        name, problem = wrong
        array = call.inputs[name]
        row = 0 if array.size == 1 and array.ndim else None
        raise TooLarge(f"{exchange.codec.place(call, row) if len(call.inputs) == 1 else name}: {problem}")


def batch_size(call: Call) -> int:
    """Return the size of the batch, 1 where the signature has no free first dimension."""
    for name, array in call.inputs.items():
        shape = call.signature.inputs[name].shape
        free = array.ndim and (shape is None or shape[0] is None)
        return (len(array) if free else 1) + len(call.failed)
    return len(call.failed)


def explained(answer: Answer) -> Answer:
    """Add an accepted body to the error message for a refused one."""

    def answer_or_explain(exchange: Exchange) -> Response:
        try:
            return answer(exchange)
        except InputError as error:
            assert exchange.call is not None
            name = exchange.call.signature.name
            whole = name not in exchange.model.source.parts  # of the parts of one tensor no example is better
            refusal = BadRequest(str(error), name, example=whole)
        except BadRequest as error:
            refusal = error
        if not refusal.example:
            raise refusal from None
        from serving.pipeline import shown  # not needed for an answer

        examples = shown.examples(exchange.model, refusal, exchange.context, exchange.codec)
        raise BadRequest(f"{refusal}{examples}") from None

    return answer_or_explain


def row_errors(answer: Answer) -> Answer:
    """Answer a batch that the model refuses row by row with on_error=row, else name the first bad row in the error."""

    def answer_rows(exchange: Exchange) -> Response:
        try:
            return answer(exchange)
        except RunError as error:
            call = exchange.call
            if error.code not in CLIENTS_FAULT or call is None:
                raise
            if wants_row_errors(call.context) and answers.in_rows(call) and (row_count := _row_count(call)):
                return encode(exchange, *_run_each(exchange, call, row_count))
            place = exchange.codec.place(call, _bad_row(exchange, call))
            message = f"{place}: the model refuses it: {plain(str(error))}"
            raise BadRequest(message, call.signature.name) from None

    return answer_rows


def _row_count(call: Call) -> int:
    """Return the size of the batch, 0 where the inputs have different sizes."""
    sizes = {len(array) if array.ndim else 0 for array in call.inputs.values()}
    return sizes.pop() if len(sizes) == 1 else 0


def _run_row(exchange: Exchange, call: Call, row: int) -> Arrays:
    inputs = {name: array[row : row + 1] for name, array in call.inputs.items()}
    return exchange.model.run(call.signature, inputs)


def _run_each(exchange: Exchange, call: Call, row_count: int) -> tuple[Call, Arrays]:
    """Run row by row; return the outputs of the good rows, and the call with the reasons of the bad ones."""
    failed = dict(call.failed)
    indexes = [index for index in range(row_count + len(failed)) if index not in failed]  # of the rows, in the request
    results: list[Arrays] = []
    for row, index in enumerate(indexes):
        try:
            outputs = _run_row(exchange, call, row)
            answers.check_rows(call, outputs, 1)
            results.append(outputs)
        except InputError as error:  # the batch has a fixed size
            raise BadRequest(f"on_error: the model does not accept a single row: {error}", example=False) from None
        except RunError as error:
            if error.code not in CLIENTS_FAULT:
                raise
            failed[index] = f"{exchange.codec.place(call, index)}: the model refuses it: {plain(str(error))}"
    good = [row for row, index in enumerate(indexes) if index not in failed]
    inputs = {name: array[good] for name, array in call.inputs.items()}
    try:
        names = results[0] if results else ()
        joined = {name: np.concatenate([outputs[name] for outputs in results]) for name in names}
    except ValueError:
        raise BadRequest("on_error: the rows are answered in different shapes; ask without it", example=False) from None
    return call._replace(failed=failed, inputs=inputs), joined


def _bad_row(exchange: Exchange, call: Call) -> int | None:
    """Return the first row that fails alone, because TensorFlow's error for a batch does not name the row."""
    if (row_count := _row_count(call)) > MOST_ROWS_TRIED:
        return None
    for row in range(row_count):
        try:
            _run_row(exchange, call, row)
        except RunError:
            return row
        except InputError:
            return None  # the batch has a fixed size
    return None


predict = stack(infer, row_errors, explained)  # the innermost first
