"""What test_memory.py runs in a process of its own, where AddressSanitizer watches the extension.

python -m tests.pipeline.native.memory EXTENSION FAKE_TENSORFLOW CHECK
"""

import base64
import json
import random
import struct
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from serving.savedmodel.signature import read
from tests.fuzz import rounds
from tests.fuzz.mutate import mutate
from tests.pipeline.native.bodies import STRINGS, Writer
from tests.pipeline.native.fake import LIMITS, LONG, MODELS, WORD, Fake, X, Y, echo, of, plain
from tests.pipeline.native.leaks import leaks
from tests.pipeline.native.models import build

OPTIONS: list[tuple[bytes | None, int, bytes | None] | None] = [
    None, None, None, (None, 0, None), (b"two", 0, None), (None, 1, None), (None, 2, b"best"), (b"", 9, None), (b"absent", 0, b""),
]  # fmt: skip


def bodies(fake: Fake) -> None:
    """Bodies of every kind, with every kind of output."""
    answered = refused = 0
    random_ = random.Random("bodies")
    for name in MODELS:
        written = Writer(build() / name, "memory").bodies(rounds(500))
        signatures = [signature for signature in read(build() / name).signatures.values() if plain(signature)]
        for strange, limits in (
            (0.0, LIMITS),
            (0.3, LIMITS),
            (0.0, (2, 4, 8, 3, -1, True)),
            (0.9, (10_000, 1 << 20, 256, 1 << 20, 100, True)),
        ):
            predictor = fake.predictor(*(of(signature, random_, strange) for signature in signatures), limits=limits)
            for body in written:
                answer = predictor.predict(body, 0, random_.choice(OPTIONS))
                if answer == (3, b"not today"):
                    refused += 1
                elif not isinstance(answer, str):
                    answered += 1
                    json.loads(answer.body)
                assert fake.live() == (0, 0, 0), body
    assert answered > 1300, answered
    assert refused > 25, refused
    assert fake.library.count_runs() > answered + refused


def shared(fake: Fake) -> None:
    """Bodies that share runs: each is answered as by itself, and with every kind of output nothing is left."""
    random_, answered = random.Random("shared"), 0
    for name in MODELS:
        written = Writer(build() / name, "shared").bodies(1000)
        signatures = [signature for signature in read(build() / name).signatures.values() if plain(signature)]
        for strange, sizes in ((0.0, (1, 2, 4, 8)), (0.0, (3, 20)), (0.5, (2, 16))):
            described = [of(signature, random_, strange) for signature in signatures]
            free = [all(dims[:1] == (-1,) for _, _, _, dims, *_ in inputs) for _, inputs, _ in described]
            predictor = fake.predictor(*((*entry, sizes) if has else entry for entry, has in zip(described, free)))
            for start in range(0, len(written), 25):
                group = written[start : start + 25]
                results = predictor.together(tuple((body, -1) for body in group))
                assert fake.live() == (0, 0, 0), group
                if not strange:
                    alone = [predictor.predict(body) for body in group]
                    assert [result if isinstance(result, str) else result[:4] for result in results] == [
                        result if isinstance(result, str) else result[:4] for result in alone
                    ]
                answered += sum(not isinstance(result, str) for result in results)
    assert answered > 3000, answered
    for wrong in ((b"{}",), ((b"{}",),), (("{}", -1),), [(b"{}", -1)]):
        try:
            predictor.together(wrong)
        except (TypeError, ValueError):
            continue
        raise AssertionError(f"taken: {wrong}")


def large(fake: Fake) -> None:
    """Bodies that make every buffer grow, one whose tensor cannot be had, and every cut of one."""
    signature = (
        b"serving_default",
        ((b"x", b"FP32", 1, (-1, -1), 0, 0),),
        (Y, (b"z", b'"z":', b"FP32", False, 1, -1, 2, 0)),
    )
    predictor = fake.predictor(signature, limits=(10**9, 10**9, 256, 10**9, -1, False))
    for count in [*range(1, 300), 1000, 5000, 100_000]:
        row = b"[%b]" % b",".join([b"-1.2345678e-30"] * count)
        answer = predictor.predict(b'{"inputs":[%b]}' % row)
        assert answer.body == b'{"outputs":{"y":[%b],"z":-1.2345678e-30}}' % row
        answer = predictor.predict(b'{"inputs":[%b]}' % b",".join([b"[1.5]"] * count))
        assert answer.rows == count
    assert isinstance(predictor.predict(b'{"inputs":[[%b]]}' % b",".join([b"1"] * 300_000)), str)
    body = (
        b' { "signature_name" : "serving_default" , "instances" : [ { "x" : [ 1.5e3 , -2 ] } , { "x" : [ 0 , 1 ] } ] } '
    )
    for size in range(len(body) - 2):
        assert isinstance(predictor.predict(body[:size]), str)
        assert isinstance(predictor.predict(body[size:]), str) or not size
    for body in (b"", b"{", b'{"', b'{"inputs":', b"[" * 100_000, b'{"inputs":' + b"[" * 100_000, b'{"inputs":[[' + b"1" * 100_000,
                 b'{"inputs":[[1.' + b"1" * 100_000, b'{"inputs":[[1e' + b"1" * 100_000, b'{"' * 100_000, b" " * 100_000):  # fmt: skip
        assert isinstance(predictor.predict(body), str)
    assert predictor.predict(b'{"inputs":[[1.' + b"1" * 100_000 + b"]]}")[0].startswith(
        b'{"outputs":{"y":[[1.1111112]]'
    )
    assert fake.live() == (0, 0, 0)


def without_one(value: Any) -> Iterator[Any]:
    """Yield a JSON value without one of its members or elements, each at any depth in its turn."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield {name: other for name, other in value.items() if name != key}
            yield from ({**value, key: less} for less in without_one(inner))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield value[:index] + value[index + 1 :]
            yield from ([*value[:index], less, *value[index + 1 :]] for less in without_one(inner))


def infers(fake: Fake) -> None:
    """Requests of the Open Inference Protocol, binary tensors among them, and what chance makes of them."""
    random_ = random.Random("infers")
    double = (b"a", b"FP64", 2, (-1, 2), 0, 1)
    outputs = (Y, (b"a", b'"a":', b"FP64", False, 2, -1, 0, 1))
    predictors = [
        fake.predictor((b"s", (X, double), outputs)),
        fake.predictor((b"s", (X, double), (Y, (b"z", b'"z":', b"FP32", False, 1, -1, 7, 0)))),
        fake.predictor((b"s", (X, double), outputs), limits=(2, 4, 3, 3, -1, True)),
    ]
    seeds: list[tuple[bytes, bytes]] = []
    for rows in (1, 2, 5):
        for binary_x, binary_a, binary_y in ((0, 0, 0), (1, 0, 1), (0, 1, 0), (1, 1, 1)):
            tail, tensors = b"", []
            for name, datatype, size, shape, binary in (
                ("x", "FP32", 4 * rows, [rows], binary_x), ("a", "FP64", 16 * rows, [rows, 2], binary_a)
            ):  # fmt: skip
                tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
                if binary:
                    tensor["parameters"] = {"binary_data_size": size}
                    tail += random_.randbytes(size)
                else:
                    tensor["data"] = [0.5] * (size // (4 if name == "x" else 8))
                tensors.append(tensor)
            body: dict[str, Any] = {
                "id": "seven",
                "inputs": tensors,
                "parameters": {"binary_data_output": bool(binary_y)},
            }
            wanted = [{"name": "y", "parameters": {"binary_data": bool(binary_y)}}]
            classes = [
                {"name": name, "parameters": {"classification": 2, "binary_data": bool(binary_y)}} for name in "ya"
            ]
            for document in (
                body,
                {"inputs": tensors},
                {"inputs": tensors, "outputs": wanted},
                {"inputs": tensors, "outputs": classes},
            ):
                seeds.append((json.dumps(document, separators=random_.choice([None, (",", ":")])).encode(), tail))
    texts = [text for text, _ in seeds]
    answered = 0
    for text, tail in seeds:
        cases = [(text, tail), *((mutate(text, texts, random_, 4096), tail) for _ in range(60))]
        cases += [(json.dumps(less).encode(), tail) for less in without_one(json.loads(text))]
        cases += [(text, tail[:size]) for size in range(len(tail))] + [(text, tail + b"1")]
        cases += [(text.replace(b'e":', b'e":1', 1), tail), (text.replace(b'e":', b'e":-', 1), tail)]
        for text_, tail_ in cases:
            body_ = text_ + tail_
            sizes = {len(text_), len(body_), 0, -1, len(body_) + 1, random_.randrange(len(body_) + 1), (1 << 63) - 1}
            for predictor in predictors:
                for size in sizes:
                    answer = predictor.infer(body_, size)
                    answered += not isinstance(answer, str) and len(answer) > 2
                    assert fake.live() == (0, 0, 0), (body_, size)
    assert answered > 50, answered


def value(element: Any, as_bytes: bool = False) -> Any:
    """Return an element of JSON as it comes back: text where it is UTF-8."""
    data = element.encode() if isinstance(element, str) else base64.b64decode(element["b64"])
    try:
        if not as_bytes:
            return data.decode()
    except UnicodeDecodeError:
        pass
    return {"b64": base64.b64encode(data).decode()}


def decoded(wanted: Any, as_bytes: bool = False) -> Any:
    """Return an answer whose elements stand in it as a body has them."""
    if isinstance(wanted, dict):
        return {name: decoded(inner, as_bytes) for name, inner in wanted.items()}
    if isinstance(wanted, list):
        return [decoded(inner, as_bytes) for inner in wanted]
    return value(json.loads(wanted), as_bytes)


def strings(fake: Fake) -> None:
    """Strings of every kind, the last of their body, cut at every byte; and answers cut within a character."""
    scalar = (b"scalar", ((*WORD[:3], (), 0, 0),), (echo(),))
    plain, binary = (fake.predictor((b"s", (WORD,), (echo(as_bytes=as_bytes),)), scalar) for as_bytes in (False, True))
    more = [fake.predictor((b"s", (WORD,), (echo(what),))) for what in (11, 12)]
    limited = fake.predictor((b"s", (WORD,), (echo(),)), limits=(2, 2, 1, 3, 10, False))
    answered = 0
    for text, taken in STRINGS:
        element = text.encode("utf-8", "surrogateescape")
        for form, wanted in (
            (b'{"inputs":[%b]}', {"outputs": [text]}),
            (b'{"instances":["a",%b]}', {"predictions": ['"a"', text]}),
            (b'{"inputs":{"x":[%b]}}', {"outputs": [text]}),
            (b'{"instances":[{"x":%b}]}', {"predictions": [text]}),
            (b'{"signature_name":"scalar","inputs":%b}', {"outputs": text}),
        ):
            body = form % element
            if not isinstance(answer := plain.predict(body), str):
                assert taken, body
                answered += 1
                assert json.loads(answer.body) == decoded(wanted), body
            if not isinstance(answer := binary.predict(body), str):
                assert json.loads(answer.body) == decoded(wanted, as_bytes=b"scalar" not in body), body
            for predictor in (*more, limited):
                answer = predictor.predict(body)
                assert isinstance(answer, str) or json.loads(answer.body), body
            for size in range(len(body)) if taken else ():
                assert isinstance(plain.predict(body[:size]), str), body[:size]
            for broken in (element, b'{"%b' % element, body[:-1], body[:-2]):
                assert not taken or isinstance(plain.predict(broken), str)
                binary.predict(broken)
            assert fake.live() == (0, 0, 0), body
    assert answered > 400, answered
    for text in (b"\\", b"\\u", b"\\u0", b"\\u00", b"\\u004", b"\\u0041", b"\\ud83d", b"\\ud83d\\", b"\\ud83d\\u", b"\\ud83d\\ude0", b"\xc3", b"\xe2",
                 b"\xe2\x82", b"\xf0", b"\xf0\x9f", b"\xf0\x9f\x98", b"", b"a" * 5000):  # fmt: skip
        for head in (b'{"inputs":["', b'{"inputs":[{"b64":"', b'{"', b'{"inputs":["a","', b'{"inputs":[{"x":"'):
            assert isinstance(plain.predict(head + text), str)
    for text in ("a", "é", "€", "😀", "a€", "€a", "😀😀", ""):
        for count in (*range(20), 1021, 1022, 1023, 1024, 1025, 2047, 2048):
            element = (text * count).encode()
            body = b'{"inputs":["%b"]}' % element
            wanted_11 = {"b64": base64.b64encode(element + b"\xe2\x82").decode()}
            assert json.loads(more[0].predict(body)[0]) == {"outputs": [wanted_11]}
            assert json.loads(more[1].predict(body)[0]) == {"outputs": [value({"b64": base64.b64encode(element[:-1])})]}
            assert json.loads(plain.predict(body)[0]) == {"outputs": [text * count]}
            assert json.loads(binary.predict(body)[0]) == {"outputs": [value(text * count, True)]}
    assert fake.live() == (0, 0, 0)


def lengths(fake: Fake) -> None:
    """BYTES behind their lengths, with wrong lengths and cut at every byte; answers in binary and in JSON."""
    random_ = random.Random("lengths")
    number = (b"n", b"FP32", 1, (-1,), 0, 1)
    outputs = (echo(), (b"z", b'"z":', b"BYTES", True, 7, -1, 11, 0), (b"c", b'"c":', b"BYTES", False, 7, -1, 12, 0))
    predictors = [
        fake.predictor((b"s", (WORD, number), outputs)),
        fake.predictor((b"s", (WORD, number), outputs), limits=(2, 4, 3, 3, 10, True)),
        fake.predictor((b"s", (WORD, number), (*outputs, (b"w", b'"w":', b"BYTES", False, 7, -1, 6, 0)))),
        fake.predictor((b"s", (WORD, number), (*outputs, (b"w", b'"w":', b"BYTES", False, 7, -1, 7, 0)))),
    ]
    answered = 0
    for elements in ([b"a"], [b""], [b"", b"\xff", "é€😀".encode()], ["é€".encode(), b"x" * 40]):
        data = b"".join(struct.pack("<I", len(element)) + element for element in elements)
        tails = [data + bytes(4)]
        for at in range(len(data)):
            tails += [
                data[:at] + bytes([byte]) + data[at + 1 :] + bytes(4) for byte in (0, 1, data[at] ^ 1, 0x7F, 0xFF)
            ]
        tails += [(data + bytes(4))[:size] for size in range(len(data) + 4)] + [data + bytes(5)]
        for binary in (True, False):
            for stated_size in {len(data), len(data) - 1, len(data) + 1, len(data) + 4, 0, 1 << 40}:
                entries = [
                    {
                        "name": "x",
                        "datatype": "BYTES",
                        "shape": [len(elements)],
                        "parameters": {"binary_data_size": stated_size},
                    },
                    {"name": "n", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}},
                ]
                for asked in ([], [{"name": "z"}, {"name": "y"}], [{"name": "y"}]):
                    body = {"parameters": {"binary_data_output": binary}, "outputs": asked, "inputs": entries}
                    text = json.dumps(body).encode()
                    for tail in tails if stated_size == len(data) else random_.sample(tails, 3):
                        for predictor in predictors:
                            answer = predictor.infer(text + tail, len(text))
                            if not isinstance(answer, str) and len(answer) > 2:
                                answered += 1
                                document = json.loads(answer.body[: answer.json_size or None])
                                if (
                                    binary
                                    and stated_size == len(data)
                                    and tail == tails[0]
                                    and asked[-1:] == [{"name": "y"}]
                                ):
                                    assert answer.body.endswith(data), (answer, data)
                                assert [output["name"] for output in document["outputs"]][: len(asked)] == [
                                    output["name"] for output in asked
                                ]
                            assert fake.live() == (0, 0, 0), text + tail
    assert answered > 500, answered


def refusal(fake: Fake) -> None:
    """A tensor that cannot be had: what it was lent is given back once."""
    predictor = fake.predictor((b"s", (WORD,), (echo(),)), limits=(10**9, 10**9, 256, 10**9, -1, False))
    fine, many = (
        (b'{"inputs":[%b]}' % b",".join([b'"a longer text than fits inside"'] * count)) for count in (40_000, 44_000)
    )
    assert predictor.predict(fine).rows == 40_000
    assert isinstance(predictor.predict(many), str)
    assert fake.live() == (0, 0, 0)


def pictures(fake: Fake) -> None:
    """Headers of pictures, in which everything may be wrong."""
    random_ = random.Random("pictures")
    predictor = fake.predictor((b"s", (WORD,), (echo(),)), limits=(100, 100, 256, 10**9, 1000, False))
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 20, 30)
    jpeg = b"\xff\xd8\xff\xe0\x00\x04ab\xff\xff\xd0\xff\xc4\x00\x02\xff\xc0\x00\x0b\x08\x00\x14\x00\x1e\x01"
    answered = count = 0
    for header in (
        png,
        jpeg,
        b"\xff\xd8\xff\xc2",
        b"\xff\xd8\xff\xfe\xff\xff",
        b"\xff\xd8" + b"\xff\xe0\0\2" * 200,
        b"GIF89a",
        b"BM",
        b"RIFF",
    ):
        changed = [header[:size] for size in range(min(len(header), 100) + 1)] + [header + bytes(200)]
        for _ in range(300):
            position = random_.randrange(min(len(header), 100))
            changed.append(
                header[:position] + random_.choice([random_.randbytes(1), b"\xff", b"\0", b""]) + header[position + 1 :]
            )
        for data in changed:
            if len(data) % 3 and data[:2] == b"\xff\xd8":
                data = data[:2] + bytes(3 - len(data) % 3) + data[2:]
            count += 1
            # The memory of all strings has 1 kB more than the first: there the last one is the last of it.
            filler = b"f" * (1024 - (len(data) + 2) // 3 * 3)
            body = b'{"inputs":["first","%b",{"b64":"%b"}]}' % (filler, base64.b64encode(data))
            answered += not isinstance(predictor.predict(body), str)
    assert count / 4 < answered < count, (answered, count)
    assert fake.live() == (0, 0, 0)


def threads(fake: Fake) -> None:
    """Many calls of one predictor at once: each has its own answer."""
    signature = (b"serving_default", (LONG,), ((b"y", b'"y":', b"INT64", False, 9, -1, 0, 0),))
    failing = (
        b"failing",
        (LONG,),
        ((b"y", b'"y":', b"INT64", False, 9, -1, 0, 0), (b"z", b'"z":', b"INT64", False, 9, -1, 7, 0)),
    )
    predictor = fake.predictor(signature, failing)

    def call(number: int) -> None:
        numbers = list(range(number, number + 1 + number % 97 * 20))
        answer = predictor.predict(json.dumps({"inputs": numbers}).encode())
        assert json.loads(answer.body) == {"outputs": numbers}
        refused = predictor.predict(json.dumps({"signature_name": "failing", "inputs": numbers}).encode())
        assert refused == (3, b"not today")
        assert isinstance(predictor.predict(json.dumps({"inputs": [numbers]}).encode()), str)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(1000)))
    assert fake.live() == (0, 0, 0)


def overrun(fake: Fake) -> None:
    """A fault on purpose, in what the extension reads, which must end the process: that it is watched."""
    predictor = fake.predictor(
        (b"s", ((b"x", b"FP64", 2, (-1,), 0, 0),), ((b"y", b'"y":', b"FP64", False, 2, -1, 10, 0),))
    )
    predictor.predict(b'{"inputs":[1,2,3,4]}')


if __name__ == "__main__":
    CHECKS = {
        check.__name__: check
        for check in (bodies, shared, large, infers, strings, lengths, pictures, refusal, threads, leaks, overrun)
    }
    CHECKS[sys.argv[3]](Fake(sys.argv[1], sys.argv[2]))
    print("done")
