"""What is done when the model refuses a batch: the bad rows are named, or answered apart (`on_error=row`)."""

import numpy as np

from serving.core.errors import CLIENTS_FAULT, InputError, RunError, plain
from serving.core.http import BadRequest, Response
from serving.pipeline.exchange import Answer, Exchange
from serving.protocols import answers
from serving.protocols.call import Arrays, Call
from serving.protocols.call import row_errors as wants_row_errors

MOST_ROWS_TRIED = 256


def row_errors(answer: Answer) -> Answer:
    """Answer a batch that the model refuses row by row where the client wants that, else name the first bad row."""

    def answer_rows(exchange: Exchange) -> Response:
        try:
            return answer(exchange)
        except RunError as error:
            call = exchange.call
            if error.code not in CLIENTS_FAULT or call is None:
                raise
            if wants_row_errors(call.context) and answers.in_rows(call) and (row_count := _row_count(call)):
                return exchange.encode(*_run_each(exchange, call, row_count))
            place = exchange.codec.place(call, _bad_row(exchange, call))
            message = f"{place}: the model refuses it: {plain(str(error))}"
            raise BadRequest(message, call.signature.name) from None

    return answer_rows


def _row_count(call: Call) -> int:
    """Return the size of the batch, 0 where the inputs do not agree on one."""
    sizes = {len(array) if array.ndim else 0 for array in call.inputs.values()}
    return sizes.pop() if len(sizes) == 1 else 0


def _run_row(exchange: Exchange, call: Call, row: int) -> Arrays:
    inputs = {name: array[row : row + 1] for name, array in call.inputs.items()}
    return exchange.model.run(call.signature, inputs)


def _run_each(exchange: Exchange, call: Call, row_count: int) -> tuple[Call, Arrays]:
    """Run row by row; return the outputs of the good rows, and the call with the reasons of the bad ones."""
    failed = dict(call.failed)
    places = [place for place in range(row_count + len(failed)) if place not in failed]  # of the rows, in the request
    results: list[Arrays] = []
    for row, place in enumerate(places):
        try:
            outputs = _run_row(exchange, call, row)
            answers.check_rows(call, outputs, 1)
            results.append(outputs)
        except InputError as error:  # the batch has a fixed size
            raise BadRequest(f"on_error: the model does not accept a single row: {error}", example=False) from None
        except RunError as error:
            if error.code not in CLIENTS_FAULT:
                raise
            failed[place] = f"{exchange.codec.place(call, place)}: the model refuses it: {plain(str(error))}"
    good = [row for row, place in enumerate(places) if place not in failed]
    inputs = {name: array[good] for name, array in call.inputs.items()}
    try:
        names = results[0] if results else ()
        joined = {name: np.concatenate([outputs[name] for outputs in results]) for name in names}
    except ValueError:
        raise BadRequest("on_error: the rows are answered in different shapes; ask without it", example=False) from None
    return call._replace(failed=failed, inputs=inputs), joined


def _bad_row(exchange: Exchange, call: Call) -> int | None:
    """Return the first row that fails alone: TensorFlow says what is wrong with a batch, and not where."""
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
