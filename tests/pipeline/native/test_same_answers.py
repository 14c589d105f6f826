"""With the accelerator every answer is what it is without it, and the plain ones are its own."""

import base64
import gzip
import itertools
import json
import random
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.core.http import Request
from serving.core.telemetry import phases
from serving.pipeline import accelerator, handler, layers
from serving.runtime import loading
from serving.servers import wsgi
from tests.conftest import EMBEDDED, Serve
from tests.fuzz import rounds
from tests.models import zoo
from tests.pipeline.native.bodies import STRINGS, Writer
from tests.pipeline.native.conftest import Ask
from tests.pipeline.native.models import DTYPES, build

QUICK, SLOW = True, False  # the extension answers; it declines
REFUSED = True  # it runs the model, which refuses

# fmt: off
# Numbers, and what of them the extension takes: integers for every dtype that holds them, decimals for floats.
INTEGERS = [
    "0", "-0", "1", "-1", "7", "9", "10", "127", "128", "-128", "-129", "255", "256", "32767", "32768", "-32768",
    "-32769", "65535", "65536", "2147483647", "2147483648", "-2147483648", "-2147483649", "4294967295", "4294967296",
    "16777215", "16777216", "16777217", "16777219", "-16777217", "33554433", "9007199254740991", "9007199254740992",
    "9007199254740993", "-9007199254740993", "9007199254740995", "99999999999999999", "100000000000000000",
    "123456789012345678", "999999999999999999", "-999999999999999999",
]
LONG = [  # of 19 digits and more
    "1000000000000000000", "9223372036854775807", "9223372036854775808", "-9223372036854775807",
    "-9223372036854775808", "-9223372036854775809", "9223372036854775809", "18446744073709551615",
    "18446744073709551616", "-18446744073709551615", "12345678901234567890", "99999999999999999999",
    "100000000000000000000", "-100000000000000000000", "1" * 39, "1" * 40, "1" * 41, "1" * 400,
]
DECIMALS = [
    "0.0", "-0.0", "0.5", "-1.25", "0.1", "0.2", "0.3", "1.1", "3.14159", "100.0", "1e0", "1E0", "1e+0", "1e-0", "-1e0",
    "1e5", "1E+5", "1e-5", "0e0", "0e99", "-0e-99", "0.000e5", "0e99999", "0.0e-99999", "1.5e3", "12.5E-1", "1e22",
    "1e23", "9007199254740993.0", "9007199254740992.5", "9007199254740993e0", "9007199254740993e1",
    "16777217.0", "16777216.999999999", "16777217.000000001", "33554431.0", "1.00000005960464477539",
    "1.000000059604644775390625", "1.0000000596046447753906251", "1.00000017881393432617187499",
    "0.99999999999999994448884876874217", "0.1e1", "1e00000000000000000001", "1e-00000000000000000001",
    "123456789012345678.5", "1234567890123456789.5", "12345678901234567890.5", "123456789012345678901234567890.0",
    "0.00000000000000000000000000001", "0." + "0" * 30 + "1", "0." + "3" * 400, "1." + "0" * 400, "0." + "0" * 40 + "7e45",
    "1" * 30 + ".5", "1" * 30 + "e0", "5" * 400 + "e-399", "0." + "0" * 5000 + "1e5001", "3.4e38", "-3.4028234e38",
    "3.4028235e38", "3.40282346638528859811704183484516925440e38", "3.4028235677973362e38", "1.1754943508222875e-38",
    "1.1754942106924411e-38", "1.401298464324817e-45", "7.006492321624086e-46", "7.006492321624085e-46", "1e-45", "1e-46",
    "1e-300", "1e-64", "2.47e-32", "6.02214076e23", "8.5e-38", "4.9406564584124654e-320",
]
DOUBLES = [  # that no float32 holds
    "3.4028235677973366e38", "3.4028236e38", "3.5e38", "-1e39", "1e39", "1e100", "1e308", "1.7976931348623157e308",
    "-1.7976931348623157e308", "17976931348623157e292", "1" * 60 + ".0", "0." + "0" * 10 + "1e60",
]
BEYOND = [  # any number, or so small that it is none
    "1e309", "-1e309", "1e400", "1.7976931348623159e308", "1e99999", "1e4096", "1e4097", "1e99999999999999999999",
    "1e-400", "1e-99999", "1e-99999999999999999999", "4.9e-325", "2.4703282292062327e-324", "1" * 400 + ".0",
    "0." + "0" * 400 + "1",
]
TINY = ["4.9406564584124654e-324", "5e-324", "2.2250738585072014e-308", "2.2250738585072011e-308", "1e-310", "1.5e-323"]
WRONG = [
    "", "-", "+1", ".5", "-.5", "5.", "-5.", "1.e5", "1e", "1e+", "1e-", "1E", "01", "-01", "00", "-00", "00.5", "0x10",
    "1_000", "1,5", "- 1", "1 .5", "1. 5", "1 e5", "--1", "1-", "1..5", "1.5.5", "1e5.5", "1e5e5", "1f", "0b1", "1L",
    "true", "false", "null", "NaN", "-NaN", "nan", "Infinity", "-Infinity", "inf", '"1"', '""', "{}", "[]", "[1]", "[[]]",
    '{"b64":"AA=="}', "١", "１", "\u22121", "1\u00a0", "\u20281", "1\0", "\0", "1\x0b", "1\x0c", "1;", "1/1", "1//", "#1",
]

# signature of "shapes", form, tensor, way
TENSORS = [
    ("",       "instances", "[[1]]",                        QUICK),
    ("",       "instances", "[[1,2],[3,4]]",                QUICK),
    ("",       "inputs",    "[[1,2],[3,4]]",                QUICK),
    ("",       "instances", " [ [ 1 , 2 ] , [ 3 , 4 ] ] ",  QUICK),
    ("",       "instances", "\n[\r\n[\t1\n,2]\r,\n[3,4\t]\n]\n", QUICK),
    ("",       "instances", "[[1,2],[3]]",                  SLOW),
    ("",       "instances", "[[1],[2,3]]",                  SLOW),
    ("",       "instances", "[[1],2]",                      SLOW),
    ("",       "instances", "[1,[2]]",                      SLOW),
    ("",       "instances", "[[1],[[2]]]",                  SLOW),
    ("",       "instances", "[[[1]]]",                      SLOW),
    ("",       "instances", "[1]",                          SLOW),
    ("",       "instances", "1",                            SLOW),
    ("",       "instances", "[]",                           SLOW),
    ("",       "instances", "[[]]",                         SLOW),
    ("",       "instances", "[[],[]]",                      SLOW),
    ("",       "instances", "[[1],[]]",                     SLOW),
    ("",       "instances", "[[],[1]]",                     SLOW),
    ("",       "inputs",    "[]",                           SLOW),
    ("",       "inputs",    "[[]]",                         SLOW),
    ("",       "instances", "[[1],]",                       SLOW),
    ("",       "instances", "[[1,]]",                       SLOW),
    ("",       "instances", "[,[1]]",                       SLOW),
    ("",       "instances", "[[,1]]",                       SLOW),
    ("",       "instances", "[[1]",                         SLOW),
    ("",       "instances", "[[1]]]",                       SLOW),
    ("",       "instances", "[[1}]",                        SLOW),
    ("",       "instances", "[[1 2]]",                      SLOW),
    ("",       "instances", "[[1][2]]",                     SLOW),
    ("",       "instances", "[[1],\x0b[2]]",                SLOW),
    ("",       "instances", "[[1],\u00a0[2]]",              SLOW),
    ("",       "instances", "[[1], // one\n[2]]",           SLOW),
    ("",       "instances", '[{"x":[1,2]},{"x":[3,4]}]',    QUICK),
    ("",       "instances", ' [ { "x" : [ 1 ] } ] ',        QUICK),
    ("",       "instances", '[{"x":[1,2]},{"x":[3]}]',      SLOW),
    ("",       "instances", '[{"x":[[1]]}]',                SLOW),
    ("",       "instances", '[{"x":1}]',                    SLOW),
    ("",       "instances", '[{"x":[]}]',                   SLOW),
    ("",       "instances", '[{"x":[1]},[2]]',              SLOW),
    ("",       "instances", '[[1],{"x":[2]}]',              SLOW),
    ("",       "instances", '[{"x":[1]},2]',                SLOW),
    ("",       "instances", '[{"x":[1]},]',                 SLOW),
    ("",       "instances", '[{"x":[1],}]',                 SLOW),
    ("",       "instances", '[{}]',                         SLOW),
    ("",       "instances", '[{"x":[1]},{}]',               SLOW),
    ("",       "instances", '[{"y":[1]}]',                  SLOW),
    ("",       "instances", '[{"x":[1],"y":[1]}]',          SLOW),
    ("",       "instances", '[{"x":[1],"x":[1]}]',          SLOW),
    ("",       "instances", '[{"X":[1]}]',                  SLOW),
    ("",       "instances", '[{"x ":[1]}]',                 SLOW),
    ("",       "instances", '[{"x\\u0000":[1]}]',           SLOW),
    ("",       "instances", '[{"x\0":[1]}]',                SLOW),
    ("",       "instances", '[{"\\u0078":[1]}]',            SLOW),
    ("",       "instances", '[{"":[1]}]',                   SLOW),
    ("",       "instances", "[{x:[1]}]",                    SLOW),
    ("",       "instances", "[{'x':[1]}]",                  SLOW),
    ("",       "instances", '[{"x":[1],"key":7}]',          SLOW),
    ("",       "instances", '[{"key":"a","x":[1]},{"x":[2]}]', SLOW),
    ("",       "instances", '{"x":[[1]]}',                  SLOW),
    ("",       "inputs",    '{"x":[[1,2]]}',                QUICK),
    ("",       "inputs",    '{ "x" : [ [ 1 , 2 ] ] }',      QUICK),
    ("",       "inputs",    '{"x":[1]}',                    SLOW),
    ("",       "inputs",    '{"x":[]}',                     SLOW),
    ("",       "inputs",    '{"x":[[]]}',                   SLOW),
    ("",       "inputs",    '{"x":[[1]],"x":[[1]]}',        SLOW),
    ("",       "inputs",    '{"x":[[1]],"y":[[1]]}',        SLOW),
    ("",       "inputs",    '{"x":[[1]],"key":[1]}',        SLOW),
    ("",       "inputs",    '{"y":[[1]]}',                  SLOW),
    ("",       "inputs",    "{}",                           SLOW),
    ("",       "inputs",    '{"x":[[1]],}',                 SLOW),
    ("",       "inputs",    "null",                         SLOW),
    ("",       "inputs",    '"x"',                          SLOW),
    ("three",  "instances", "[[1,2,3]]",                    QUICK),
    ("three",  "instances", "[[1,2,3],[4,5,6]]",            QUICK),
    ("three",  "instances", "[[1,2]]",                      SLOW),
    ("three",  "instances", "[[1,2,3,4]]",                  SLOW),
    ("three",  "instances", "[[1,2,3],[4,5]]",              SLOW),
    ("three",  "inputs",    "[[1,2,3]]",                    QUICK),
    ("three",  "instances", '[{"x":[1,2,3]},{"x":[4,5,6]}]', QUICK),
    ("three",  "instances", '[{"x":[1,2]}]',                SLOW),
    ("fixed",  "instances", "[[1,2,3],[4,5,6]]",            QUICK),
    ("fixed",  "inputs",    "[[1,2,3],[4,5,6]]",            QUICK),
    ("fixed",  "instances", "[[1,2,3]]",                    SLOW),
    ("fixed",  "instances", "[[1,2,3],[4,5,6],[7,8,9]]",    SLOW),
    ("fixed",  "instances", "[[1,2],[3,4],[5,6]]",          SLOW),
    ("fixed",  "instances", '[{"x":[1,2,3]},{"x":[4,5,6]}]', QUICK),
    ("fixed",  "instances", '[{"x":[1,2,3]}]',              SLOW),
    ("fixed",  "instances", '[{"x":[1,2,3]},{"x":[1,2,3]},{"x":[1,2,3]}]', SLOW),
    ("fixed",  "inputs",    '{"x":[[1,2,3],[4,5,6]]}',      QUICK),
    ("scalar", "inputs",    "1.5",                          QUICK),
    ("scalar", "inputs",    " -0.0 ",                       QUICK),
    ("scalar", "inputs",    '{"x":1.5}',                    QUICK),
    ("scalar", "inputs",    "[1.5]",                        SLOW),
    ("scalar", "instances", "1.5",                          SLOW),
    ("scalar", "instances", "[1.5]",                        SLOW),
    ("scalar", "instances", '[{"x":1.5}]',                  SLOW),
    ("deep",   "instances", "[[[[1]],[[2]]]]",              QUICK),
    ("deep",   "inputs",    "[[[[1],[2],[3]],[[4],[5],[6]]]]", QUICK),
    ("deep",   "instances", "[[[[1],[2]],[[3],[4]]],[[[5],[6]],[[7],[8]]]]", QUICK),
    ("deep",   "instances", "[[[[1],[2]],[[3],[4]]],[[[5],[6]],[[7]]]]", SLOW),
    ("deep",   "instances", "[[[[1]],[[2]]],[[[1],[1]],[[2],[2]]]]", SLOW),
    ("deep",   "instances", "[[[[1]]]]",                    SLOW),
    ("deep",   "instances", "[[[[1,2]],[[3,4]]]]",          SLOW),
    ("deep",   "instances", "[[[1],[2]]]",                  SLOW),
    ("deep",   "instances", '[{"x":[[[1]],[[2]]]}]',        QUICK),
    ("deepest", "instances", "[" * 8 + "1" + "]" * 8,       QUICK),
    ("deepest", "inputs",   "[" * 8 + "1,-128" + "]" * 8,   QUICK),
    ("deepest", "instances", "[" * 7 + "1" + "]" * 7,       SLOW),
    ("deepest", "instances", "[" * 9 + "1" + "]" * 9,       SLOW),
    ("rank9",  "instances", "[" * 9 + "1" + "]" * 9,        QUICK),
    ("rank9",  "instances", "[" * 10 + "1" + "]" * 10,      SLOW),
    ("any",    "instances", "[1,2]",                        SLOW),
    ("any",    "inputs",    "3",                            SLOW),
]

# body for "shapes", with X for a tensor that is right; way
BODIES = [
    ('{"instances":X}',                                         QUICK),
    ('{"inputs":X}',                                            QUICK),
    (' \t\r\n{ \t\r\n"instances" \t\r\n: \t\r\nX \t\r\n} \t\r\n', QUICK),
    ('{"signature_name":"three","instances":[[1,2,3]]}',        QUICK),
    ('{ "signature_name" : "three" , "instances" : [[1,2,3]] }', QUICK),
    ('{"signature_name":"serving_default","instances":X}',      QUICK),
    ('{"instances":[[1,2,3]],"signature_name":"three"}',        SLOW),
    ('{"instances":X,"signature_name":"scalar"}',               SLOW),
    ('{"signature_name":"nobody","instances":X}',               SLOW),
    ('{"signature_name":"","instances":X}',                     SLOW),
    ('{"signature_name":"thre","instances":X}',                 SLOW),
    ('{"signature_name":"three ","instances":X}',               SLOW),
    ('{"signature_name":"three\\u0000","instances":X}',         SLOW),
    ('{"signature_name":"thr\\u0065e","instances":[[1,2,3]]}',  SLOW),
    ('{"signature_name":"é","instances":X}',                    SLOW),
    ('{"signature_name":null,"instances":X}',                   SLOW),
    ('{"signature_name":3,"instances":X}',                      SLOW),
    ('{"signature_name":["three"],"instances":X}',              SLOW),
    ('{"signature_name":"three"}',                              SLOW),
    ('{"signature_name":"three",}',                             SLOW),
    ('{"signature_name":"three" "instances":X}',                SLOW),
    ('{"signature_name":"three","signature_name":"three","instances":[[1,2,3]]}', SLOW),
    ('{"signature_name":"__saved_model_init_op","instances":X}', SLOW),
    ('{"instances":X,"instances":X}',                           SLOW),
    ('{"inputs":X,"inputs":X}',                                 SLOW),
    ('{"instances":X,"inputs":X}',                              SLOW),
    ('{"inputs":X,"instances":X}',                              SLOW),
    ('{"instances":X,"parameters":{}}',                         SLOW),
    ('{"parameters":{},"instances":X}',                         SLOW),
    ('{"parameters":{"arrays":"base64"},"instances":X}',        SLOW),
    ('{"instances":X,"parameters":{"signature_name":"three"}}', SLOW),
    ('{"other":1,"instances":X}',                               SLOW),
    ('{"instances":X,"other":1}',                               SLOW),
    ('{"instance":X}',                                          SLOW),
    ('{"Instances":X}',                                         SLOW),
    ('{"instances ":X}',                                        SLOW),
    ('{"input":X}',                                             SLOW),
    ('{"inputs\\u0000":X}',                                     SLOW),
    ('{"\\u0069nputs":X}',                                      SLOW),
    ('{"\\u0069nstances":X}',                                   SLOW),
    ('{"inst\u00e4nces":X}',                                    SLOW),
    ('{"":X}',                                                  SLOW),
    ("{instances:X}",                                           SLOW),
    ("{'instances':X}",                                         SLOW),
    ('{"instances" X}',                                         SLOW),
    ('{"instances"=X}',                                         SLOW),
    ('{"instances":X,}',                                        SLOW),
    ('{,"instances":X}',                                        SLOW),
    ('{"instances":X',                                          SLOW),
    ('"instances":X}',                                          SLOW),
    ('{"instances":X}}',                                        SLOW),
    ('{"instances":X}]',                                        SLOW),
    ('{"instances":X},',                                        SLOW),
    ('{"instances":X}x',                                        SLOW),
    ('{"instances":X}\0',                                       SLOW),
    ('{"instances":X}\x0c',                                     SLOW),
    ('{"instances":X}{"instances":X}',                          SLOW),
    ('{"instances":X}\n{"instances":X}\n',                      SLOW),
    ('{"instances":X} // done',                                 SLOW),
    ('\ufeff{"instances":X}',                                   SLOW),
    ('{"instances":X}\ufeff',                                   SLOW),
    ('\x0b{"instances":X}',                                     SLOW),
    ('\0{"instances":X}',                                       SLOW),
    ('[{"instances":X}]',                                       SLOW),
    ("X",                                                       SLOW),
    ("{}",                                                      SLOW),
    ("{",                                                       SLOW),
    ('{"',                                                      SLOW),
    ('{"instances',                                             SLOW),
    ('{"instances"',                                            SLOW),
    ('{"instances":',                                           SLOW),
    ("",                                                        SLOW),
    (" ",                                                       SLOW),
    ("null",                                                    SLOW),
    ("7",                                                       SLOW),
]

# signature of "several", form, value, way
SEVERAL = [
    ("",        "instances", '[{"a":1,"b":[2,3]}]',                            QUICK),
    ("",        "instances", '[{"b":[2,3],"a":1}]',                            QUICK),
    ("",        "instances", '[{"a":1.5,"b":[2,3]},{"b":[-2,3],"a":-1}]',      QUICK),
    ("",        "instances", '[{"a":1,"b":[2,3]},{"a":1}]',                    SLOW),
    ("",        "instances", '[{"a":1,"b":[2,3]},{"b":[2,3]}]',                SLOW),
    ("",        "instances", '[{"a":1,"a":1,"b":[2,3]}]',                      SLOW),
    ("",        "instances", '[{"a":1,"b":[2,3],"c":1}]',                      SLOW),
    ("",        "instances", '[{"a":1,"b":[2,3],"key":1}]',                    SLOW),
    ("",        "instances", '[{"a":1,"b":[2.0,3e1]}]',                        QUICK),
    ("",        "instances", '[{"a":1,"b":[2.5,3]}]',                          SLOW),
    ("",        "instances", '[{"a":1,"b":[2]}]',                              SLOW),
    ("",        "instances", '[{"a":[1],"b":[2,3]}]',                          SLOW),
    ("",        "instances", '[[1,[2,3]]]',                                    SLOW),
    ("",        "inputs",    '{"a":[1,-2],"b":[[2,3],[4,5]]}',                 QUICK),
    ("",        "inputs",    '{"b":[[2,3],[4,5]],"a":[1,-2]}',                 QUICK),
    ("",        "inputs",    '{"a":[1,2],"b":[[2,3]]}',                        QUICK),
    ("",        "inputs",    '{"a":[1,2],"b":[[2,3],[4,5],[6,7]]}',            REFUSED),
    ("",        "instances", '[{"a":1e-4,"b":[9007199254740993,-999999999999999999]}]', QUICK),
    ("",        "inputs",    "[1]",                                            SLOW),
    ("reduced", "inputs",    "[1,2,3]",                                        QUICK),
    ("reduced", "inputs",    '{"x":[1,2,3]}',                                  QUICK),
    ("reduced", "instances", "[1,2,3]",                                        SLOW),
    ("mixed",   "inputs",    "[1,2,3]",                                        QUICK),
    ("mixed",   "instances", "[1,2,3]",                                        SLOW),
    ("alone",   "inputs",    "[1,2,3.5]",                                      QUICK),
    ("alone",   "instances", "[1,2,3]",                                        SLOW),
    ("uneven",  "inputs",    "[1,2,3]",                                        QUICK),
    ("uneven",  "instances", "[1,2,3]",                                        SLOW),
    ("uneven",  "instances", "[1]",                                            QUICK),
    ("shorter", "instances", "[1,2,3]",                                        SLOW),
    ("longer",  "instances", "[1,2,3]",                                        SLOW),
    ("longer",  "instances", '[{"x":1},{"x":2}]',                              SLOW),
    ("longer",  "inputs",    "[1,2,3]",                                        QUICK),
    ("added",   "inputs",    '{"x":[1,2],"y":[3,4]}',                          QUICK),
    ("added",   "inputs",    '{"x":[1,2],"y":[3]}',                            QUICK),
    ("added",   "inputs",    '{"x":[1,2],"y":[3,4,5]}',                        REFUSED),
    ("added",   "instances", '[{"y":1,"x":2}]',                                QUICK),
    ("scaled",  "inputs",    '{"x":[1,2],"scale":3}',                          QUICK),
    ("scaled",  "inputs",    '{"scale":3,"x":[1,2]}',                          QUICK),
    ("scaled",  "inputs",    '{"scale":[3],"x":[1,2]}',                        SLOW),
    ("scaled",  "instances", '[{"scale":3,"x":1}]',                            SLOW),
    ("scalars", "inputs",    '{"p":-5,"q":255}',                               QUICK),
    ("scalars", "inputs",    '{"p":-5,"q":256}',                               SLOW),
    ("scalars", "instances", '[{"p":-5,"q":255}]',                             SLOW),
    ("keyed",   "inputs",    '{"key":[1,2],"b64":[3,4]}',                      QUICK),
    ("keyed",   "instances", '[{"key":1,"b64":3}]',                            QUICK),
    ("keyed",   "instances", '[{"key":1,"b64":"AA=="}]',                       SLOW),
    ("keyed",   "instances", '[{"b64":"AA=="}]',                               SLOW),
    ("words",   "inputs",    '{"inputs":[1,2],"instances":[3,4]}',             QUICK),
    ("words",   "instances", '[{"instances":1,"inputs":3}]',                   QUICK),
    ("bools",   "instances", "[1,-1,0]",                                       QUICK),
    ("bools",   "inputs",    "[1,-1,0]",                                       QUICK),
    ("decided", "inputs",    "[1,-1,0]",                                       QUICK),
    ("decided", "instances", "[1,-1,0]",                                       SLOW),
]

# signature of "unlike", form, value, way
UNLIKE = [
    ("",         "instances", "[1,2,3]",        QUICK),
    ("",         "instances", "[1,-2,3]",       SLOW),
    ("",         "instances", "[-1,-2]",        SLOW),  # nothing is left
    ("",         "inputs",    "[-1]",           QUICK),
    ("hollow",   "instances", "[1,2]",          QUICK),
    ("hollow",   "inputs",    "[1,2]",          QUICK),
    ("hollow_deep", "instances", "[1,2]",       SLOW),  # the outputs differ in their rows
    ("hollow_deep", "inputs",    "[1,2]",       QUICK),
    ("hollow_both", "instances", "[1,2]",       QUICK),
    ("hollow_both", "inputs",    "[1,2]",       QUICK),
    ("rows",     "instances", "[[1,2],[-3,4]]", SLOW),
    ("rows",     "instances", "[[-1,2]]",       SLOW),
    ("rows",     "inputs",    "[[-1,2]]",       QUICK),
    ("rows_both", "instances", "[[1,2],[-3,4]]", SLOW),
    ("rows_both", "instances", "[[-1,2]]",      SLOW),
    ("rows_both", "inputs",    "[[-1,2]]",      QUICK),
    ("text",     "instances", "[1,2]",          QUICK),
    ("half",     "instances", "[1,2]",          SLOW),
    ("brain",    "instances", "[1,2]",          SLOW),
    ("complex",  "instances", "[1,2]",          SLOW),
    ("pairs",    "instances", "[1,2]",          SLOW),
    ("pairs",    "inputs",    "[1,2,3,4]",      QUICK),
    ("pairs",    "instances", "[1,2,3]",        REFUSED),
    ("checked",  "instances", "[1,2]",          QUICK),
    ("checked",  "instances", "[1,0]",          REFUSED),
    ("gathered", "instances", "[1,0]",          QUICK),
    ("gathered", "instances", "[1,2]",          REFUSED),
]

# signature of "strings", form, value, way
TEXTS = [
    ("",           "instances", '["a","é"]',                                QUICK),
    ("",           "instances", ' [ "a" , "é" ] ',                          QUICK),
    ("",           "instances", '["a",{"b64":"/w=="}]',                     QUICK),
    ("",           "instances", '[{"b64":"/w=="},"a"]',                     QUICK),
    ("",           "instances", '[ { "b64" : "/w==" } , { "b64" : "YQ==" } ]', QUICK),
    ("",           "instances", '[{"x":"a"},{"x":{"b64":"/w=="}}]',         QUICK),
    ("",           "instances", '[{"x":{"b64":"/w=="}},{"x":"a"}]',         QUICK),
    ("",           "instances", '[{"x":"a"},{"b64":"/w=="}]',               SLOW),  # serving/ takes it
    ("",           "instances", '[{"b64":"/w=="},{"x":"a"}]',               SLOW),
    ("",           "instances", '[{"x":"a"},"b"]',                          SLOW),
    ("",           "instances", '["b",{"x":"a"}]',                          SLOW),
    ("",           "instances", '[{"b64":"/w==","key":1}]',                 SLOW),
    ("",           "instances", '[{"key":1,"b64":"/w=="}]',                 SLOW),
    ("",           "instances", '[{"key":1,"x":"a"}]',                      SLOW),
    ("",           "instances", '[["a"]]',                                  SLOW),
    ("",           "instances", '["a",["b"]]',                              SLOW),
    ("",           "instances", '["a",1]',                                  SLOW),
    ("",           "instances", '"a"',                                      SLOW),
    ("",           "instances", '{"b64":"/w=="}',                           SLOW),
    ("",           "inputs",    '["a",{"b64":"/w=="}]',                     QUICK),
    ("",           "inputs",    '{"x":["a",{"b64":"/w=="}]}',               QUICK),
    ("",           "inputs",    '{"x":[{"b64":"/w=="},"a"]}',               QUICK),
    ("",           "inputs",    '{"b64":"/w=="}',                           SLOW),
    ("",           "inputs",    '{"x":{"b64":"/w=="}}',                     SLOW),
    ("",           "inputs",    '"a"',                                      SLOW),
    ("raw",        "instances", '["a","é",{"b64":"/w=="},"","\\u0000"]',    QUICK),
    ("raw",        "inputs",    '["ab","abc","abcd","abcde","abcdef"]',     QUICK),
    ("both",       "instances", '["a","",{"b64":"/w=="},"é\\n"]',           QUICK),
    ("both",       "inputs",    '["a","",{"b64":"/w=="},"é\\n"]',           QUICK),
    ("mixed",      "instances", '[{"a":"x","b":[1,2]},{"b":[3,0],"a":{"b64":"/w=="}}]', QUICK),
    ("mixed",      "inputs",    '{"a":["x","y"],"b":[[1,2],[0,-0.0]]}',     QUICK),
    ("mixed",      "inputs",    '{"b":[[1,2]],"a":["x"]}',                  QUICK),
    ("mixed",      "inputs",    '{"b":[["1",2]],"a":["x"]}',                SLOW),
    ("mixed",      "inputs",    '{"b":[[1,2]],"a":[1]}',                    SLOW),
    ("mixed",      "inputs",    '{"b":{"b64":"/w=="},"a":["x"]}',           SLOW),
    ("mixed",      "inputs",    '{"b":[[1,2]],"a":["x","y"]}',              QUICK),
    ("mixed",      "instances", '[{"a":"x","b":[1,2]},{"b64":"/w=="}]',     SLOW),
    ("fixed",      "inputs",    '[["a","b"],["c",{"b64":"/w=="}]]',         QUICK),
    ("fixed",      "instances", '[["a","b"],["c","d"]]',                    QUICK),
    ("fixed",      "instances", '[["a","b"]]',                              SLOW),
    ("fixed",      "instances", '[["a","b"],["c"]]',                        SLOW),
    ("fixed",      "inputs",    '[["a","b"],["c","d"],["e","f"]]',          SLOW),
    ("fixed",      "instances", '[{"x":["a","b"]},{"x":["c","d"]}]',        QUICK),
    ("scalar",     "inputs",    '"a"',                                      QUICK),
    ("scalar",     "inputs",    ' { "b64" : "/w==" } ',                     QUICK),
    ("scalar",     "inputs",    '{"x":{"b64":"/w=="}}',                     QUICK),
    ("scalar",     "inputs",    '{"x":"a"}',                                QUICK),
    ("scalar",     "inputs",    '["a"]',                                    SLOW),
    ("scalar",     "instances", '["a"]',                                    SLOW),
    ("scalar",     "instances", '[{"x":"a"}]',                              SLOW),
    ("matrix",     "inputs",    '[["a","b"],["c",{"b64":"/w=="}]]',         QUICK),
    ("matrix",     "instances", '[[{"b64":"/w=="}],[{"b64":""}]]',          QUICK),
    ("matrix",     "instances", '[{"x":["a"]},{"x":["b"]}]',                QUICK),
    ("matrix",     "instances", '[{"x":["a"]},{"x":["b","c"]}]',            SLOW),
    ("matrix",     "instances", '["a","b"]',                                SLOW),
    ("matrix",     "instances", '[{"b64":"/w=="}]',                         SLOW),
    ("matrix",     "instances", '[[]]',                                     SLOW),
    ("deep",       "instances", '[[["a","b"]],[["c",{"b64":"/w=="}]]]',     QUICK),
    ("deep",       "inputs",    '{"x":[[["a"]],[["\\ud83d\\ude00"]]]}',     QUICK),
    ("joined",     "inputs",    '["a","b"]',                                QUICK),
    ("joined",     "inputs",    '["a",{"b64":"/w=="}]',                     QUICK),
    ("joined",     "instances", '["a","b"]',                                SLOW),
    ("halves",     "inputs",    '["é","a",""]',                             QUICK),
    ("halves",     "instances", '["é","a","€"]',                            QUICK),
    ("counted",    "instances", '["1","-2.5"]',                             QUICK),
    ("counted",    "instances", '["1","two"]',                              REFUSED),
    ("counted",    "instances", '["1","two\\n\\"\\u0000é"]',                REFUSED),
    ("counted",    "instances", '["1",{"b64":"/w=="}]',                     REFUSED),
    ("counted",    "inputs",    '["1",""]',                                 REFUSED),
    ("hollow",     "instances", '["a","bb","c"]',                           SLOW),
    ("hollow",     "instances", '["a"]',                                    SLOW),
    ("hollow",     "inputs",    '["a",""]',                                 QUICK),
    ("hollow_deep", "inputs",   '["a",""]',                                 QUICK),
    ("hollow_deep", "instances", '["a",""]',                                QUICK),
]

# signature of "named_b64", form, value, way
NAMED_B64 = [
    ("",       "instances", '[{"b64":"/w=="}]',                         QUICK),
    ("",       "instances", '[{"b64":"a"}]',                            SLOW),
    ("",       "instances", '[{"b64":{"b64":"/w=="}}]',                 QUICK),
    ("",       "instances", '[{"b64":{"b64":"/w=="}},{"b64":"YWJj"}]',  QUICK),
    ("",       "instances", '[{"b64":{"b64":"/w=="}},{"b64":"a"}]',     QUICK),
    ("",       "instances", '[{"b64":"YWJj"},{"b64":{"b64":"/w=="}}]',  SLOW),
    ("",       "instances", '["a",{"b64":"YWJj"}]',                     QUICK),
    ("",       "inputs",    '{"b64":["a",{"b64":"/w=="}]}',             QUICK),
    ("",       "inputs",    '{"b64":"/w=="}',                           SLOW),
    ("scalar", "inputs",    '{"b64":"/w=="}',                           QUICK),
    ("scalar", "inputs",    '{"b64":"a"}',                              SLOW),
    ("scalar", "inputs",    '{"b64":{"b64":"/w=="}}',                   QUICK),
    ("scalar", "inputs",    '"a"',                                      QUICK),
    ("matrix", "instances", '[{"b64":["a"]},{"b64":[{"b64":"/w=="}]}]', QUICK),
    ("matrix", "instances", '[{"b64":["a"]},{"b64":"/w=="}]',           SLOW),
    ("matrix", "instances", '[[{"b64":"/w=="}]]',                       QUICK),
    ("beside", "instances", '[{"b64":"/w==","key":"a"}]',               SLOW),
    ("beside", "instances", '[{"key":"a","b64":"/w=="}]',               QUICK),
    ("beside", "inputs",    '{"b64":["/w=="],"key":["a"]}',             QUICK),
    ("number", "instances", '[{"b64":1}]',                              QUICK),
    ("number", "instances", '[{"b64":1},{"b64":"/w=="}]',               SLOW),
    ("number", "inputs",    '{"b64":[1]}',                              QUICK),
]

# signature of "infinite", form, value: all of them are answered
INFINITE = [
    ("",       "instances", "[1,2,4]"),
    ("",       "instances", "[0]"),
    ("",       "instances", "[0,-0.0,1e-40,-1e-40,3]"),
    ("",       "inputs",    "[-0.0,1e-30]"),
    ("",       "instances", "[0,1e-5,1e-4,1e-3,1e5,1e6,1e7,1e12,1e13,1e14,1e15,1e16,1e17,1e20,1e38,3,7,1e-16,1e-17]"),
    ("wide",   "instances", "[0,1e-5,1e-4,1e-3,1e5,1e6,1e7,1e12,1e13,1e14,1e15,1e16,1e17,1e20,1e300,3,7,1e-16,1e-17]"),
    ("wide",   "instances", "[1e-5,1e-4,1e-3,1e5,1e6,1e7,1e12,1e13,1e14,1e15,1e16,1e17,1e20,1e300,3,7,1e-16,1e-17]"),
    ("wide",   "inputs",    "[1e-320,5]"),
    ("rows",   "instances", "[[1,2],[-1,3]]"),
    ("rows",   "inputs",    "[[1,2],[-1,3]]"),
    ("rows",   "instances", "[[-1,-1]]"),
    ("both",   "instances", '[{"x":[1e-9,1e30]},{"x":[-1,2e-9]}]'),
    ("both",   "instances", "[[1e-9,1e30],[-1,0]]"),
    ("both",   "inputs",    "[[1e-9,1e30],[-1,0]]"),
    ("both",   "inputs",    "[[1e-9,1e30],[1,2]]"),
    ("scalar", "inputs",    "[0]"),
    ("scalar", "inputs",    "[0,-0.0]"),
    ("scalar", "inputs",    "[3]"),
]

# settings, model, body, way
LIMITS = [
    ({"MAX_ROWS": "2"},         "types",   '{"instances":[1,2]}',                           QUICK),
    ({"MAX_ROWS": "2"},         "types",   '{"instances":[1,2,3]}',                         SLOW),
    ({"MAX_ROWS": "2"},         "types",   '{"inputs":[1,2,3]}',                            SLOW),
    ({"MAX_ROWS": "2"},         "types",   '{"instances":[{"x":1},{"x":2}]}',               QUICK),
    ({"MAX_ROWS": "2"},         "types",   '{"instances":[{"x":1},{"x":2},{"x":3}]}',       SLOW),
    ({"MAX_ROWS": "1"},         "shapes",  '{"instances":[[1,2,3]]}',                       QUICK),
    ({"MAX_ROWS": "1"},         "shapes",  '{"signature_name":"fixed","inputs":[[1,2,3],[4,5,6]]}', SLOW),
    ({"MAX_ROWS": "1"},         "shapes",  '{"signature_name":"scalar","inputs":7}',        QUICK),
    ({"MAX_ROWS": "2"},         "several", '{"signature_name":"added","inputs":{"x":[1],"y":[1,2,3]}}', SLOW),
    ({"MAX_ELEMENTS": "4"},     "shapes",  '{"instances":[[1,2],[3,4]]}',                   QUICK),
    ({"MAX_ELEMENTS": "4"},     "shapes",  '{"instances":[[1,2,3,4,5]]}',                   SLOW),
    ({"MAX_ELEMENTS": "4"},     "shapes",  '{"instances":[[1],[2],[3],[4],[5]]}',           SLOW),
    ({"MAX_ELEMENTS": "4"},     "shapes",  '{"instances":[{"x":[1,2,3]},{"x":[4,5,6]}]}',   SLOW),
    ({"MAX_ELEMENTS": "4"},     "several", '{"instances":[{"a":1,"b":[1,2]}]}',             QUICK),
    ({"MAX_ELEMENTS": "2"},     "several", '{"instances":[{"a":1,"b":[1,2]}]}',             SLOW),
    ({"MAX_ELEMENTS": "3"},     "several", '{"inputs":{"a":[1],"b":[[1,2]]}}',              QUICK),
    ({"MAX_ELEMENTS": "1"},     "shapes",  '{"signature_name":"scalar","inputs":7}',        QUICK),
    ({"MAX_NESTING": "3"},      "types",   '{"instances":[1]}',                             SLOW),
    ({"MAX_NESTING": "6"},      "types",   '{"instances":[1]}',                             QUICK),
    ({"MAX_NESTING": "6"},      "types",   '{"instances":[{"x":1}]}',                       QUICK),
    ({"MAX_NESTING": "3"},      "types",   '{"instances":[{"x":1}]}',                       SLOW),
    ({"MAX_NESTING": "7"},      "shapes",  '{"instances":[[1]]}',                           QUICK),
    ({"MAX_NESTING": "7"},      "shapes",  '{"instances":[{"x":[1]}]}',                     QUICK),
    ({"MAX_NESTING": "2"},      "shapes",  '{"instances":[{"x":[1]}]}',                     SLOW),
    ({"MAX_NESTING": "4"},      "shapes",  '{"signature_name":"deep","inputs":[[[[1]],[[2]]]]}', SLOW),
    ({"MAX_NESTING": "6"},      "strings", '{"instances":[{"x":{"b64":"AA=="}}]}',          QUICK),
    ({"MAX_NESTING": "3"},      "strings", '{"instances":[{"x":{"b64":"AA=="}}]}',          SLOW),
    ({"MAX_NESTING": "6"},      "strings", '{"signature_name":"scalar","inputs":{"x":{"b64":"AA=="}}}', QUICK),
    ({"MAX_NESTING": "2"},      "strings", '{"signature_name":"scalar","inputs":{"x":{"b64":"AA=="}}}', SLOW),
    ({"MAX_STRING_BYTES": "8"}, "strings", '{"instances":["12345678","1234567"]}',          QUICK),
    ({"MAX_STRING_BYTES": "8"}, "strings", '{"instances":["1234567","123456789"]}',         SLOW),
    ({"MAX_STRING_BYTES": "8"}, "strings", '{"instances":["éééé","€€","😀😀"]}',             QUICK),
    ({"MAX_STRING_BYTES": "8"}, "strings", '{"instances":["ééééa"]}',                       SLOW),
    ({"MAX_STRING_BYTES": "8"}, "strings", '{"instances":["%s"]}' % (r"\u0041" * 8),        QUICK),
    ({"MAX_STRING_BYTES": "8"}, "strings", '{"instances":["%s"]}' % (r"\ud83d\ude00" * 2),  QUICK),
    ({"MAX_STRING_BYTES": "8"}, "strings", '{"instances":["%s"]}' % (r"\u0041" * 9),        SLOW),
    ({"MAX_STRING_BYTES": "8"}, "strings", '{"instances":["%s"]}' % (r"\ud83d\ude00" * 3),  SLOW),
    ({"MAX_STRING_BYTES": "8"}, "strings", '{"instances":[{"b64":"AAAAAAAAAAA="}]}',        QUICK),
    ({"MAX_STRING_BYTES": "8"}, "strings", '{"instances":[{"b64":"AAAAAAAAAAAA"}]}',        SLOW),
    ({"MAX_STRING_BYTES": "1"}, "strings", '{"signature_name":"joined","inputs":["a","b"]}', QUICK),
    ({"MAX_STRING_BYTES": "1"}, "strings", '{"signature_name":"scalar","inputs":"ab"}',     SLOW),
    ({"MAX_STRING_BYTES": "1"}, "named_b64", '{"signature_name":"beside","inputs":{"b64":["a"],"key":["ab"]}}', SLOW),
    ({"MAX_STRING_BYTES": "65536"}, "strings", '{"instances":["%s"]}' % ("é" * 32768),      QUICK),
    ({"MAX_STRING_BYTES": "65536"}, "strings", '{"instances":["%s"]}' % ("é" * 32768 + "a"), SLOW),
    ({"MAX_ELEMENTS": "3"},     "strings", '{"instances":["a","b","c"]}',                   QUICK),
    ({"MAX_ELEMENTS": "3"},     "strings", '{"instances":["a","b","c","d"]}',               SLOW),
    ({"MAX_ELEMENTS": "3"},     "strings", '{"signature_name":"mixed","inputs":{"a":["x"],"b":[[1,2]]}}', QUICK),
    ({"MAX_ELEMENTS": "2"},     "strings", '{"signature_name":"mixed","inputs":{"a":["x"],"b":[[1,2]]}}', SLOW),
    ({"MAX_ROWS": "2"},         "strings", '{"instances":["a","b"]}',                       QUICK),
    ({"MAX_ROWS": "2"},         "strings", '{"inputs":["a","b","c"]}',                      SLOW),
    ({"KEY_FIELD": "b64"},      "strings", '{"instances":[{"b64":"AA=="},{"b64":"/w=="}]}',  QUICK),
    ({"KEY_FIELD": "b64"},      "strings", '{"instances":[{"b64":"AA==","x":"a"}]}',        SLOW),
    ({"MAX_BODY_BYTES": "20"},  "types",   '{"instances":[1,2]}',                           QUICK),
    ({"MAX_BODY_BYTES": "20"},  "types",   '{"instances":[1,2.5]}',                         SLOW),
    ({"KEY_FIELD": "x"},        "types",   '{"instances":[{"x":1}]}',                       QUICK),
    ({"KEY_FIELD": "id"},       "types",   '{"instances":[{"x":1,"id":2}]}',                SLOW),
    ({"BATCH_ROWS": "8"},       "types",   '{"instances":[1,2]}',                           QUICK),
    ({"INTER_OP_THREADS": "2"}, "types",   '{"instances":[1,2]}',                           QUICK),
]

PLAIN = b'{"instances":[1,0.5]}'
LARGE = b'{"instances":[%b]}' % b",".join(b"%d.25" % number for number in range(2000))

# body, query, headers, way
REQUESTS = [
    (PLAIN,                             "",                        {},                                       QUICK),
    (LARGE,                             "",                        {},                                       QUICK),
    (LARGE,                             "",                        {"accept-encoding": "gzip"},              QUICK),
    (LARGE,                             "",                        {"accept-encoding": "br;q=1, gzip;q=0"},  QUICK),
    (gzip.compress(LARGE),              "",                        {"content-encoding": "gzip"},             QUICK),
    (zlib.compress(PLAIN),              "",                        {"content-encoding": "deflate"},          QUICK),
    (PLAIN,                             "",                        {"content-encoding": "identity"},         QUICK),
    (PLAIN,                             "",                        {"content-encoding": "gzip"},             SLOW),
    (PLAIN,                             "",                        {"content-encoding": "br"},               SLOW),
    (gzip.compress(PLAIN)[:-4],         "",                        {"content-encoding": "gzip"},             SLOW),
    (PLAIN,                             "",                        {"content-type": "application/json"},     QUICK),
    (PLAIN,                             "",                        {"content-type": "text/plain"},           QUICK),
    (PLAIN,                             "",                        {"content-type": "application/octet-stream"}, QUICK),
    (PLAIN,                             "",                        {"content-type": "image/png"},            SLOW),
    (PLAIN,                             "top_k=1",                 {},                                       SLOW),
    (PLAIN,                             "arrays=base64",           {},                                       SLOW),
    (PLAIN,                             "arrays=json",             {},                                       SLOW),
    (PLAIN,                             "on_error=row",            {},                                       SLOW),
    (b'{"instances":[1,null]}',         "on_error=row",            {},                                       SLOW),
    (PLAIN,                             "signature_name=float64",  {},                                       SLOW),
    (PLAIN,                             "signature_name=nobody",   {},                                       SLOW),
    (PLAIN,                             "other=1",                 {},                                       SLOW),
    (PLAIN,                             "a=1&a=2",                 {},                                       SLOW),
    (b'{"instances":[0.1,"\xff"]}',     "",                        {},                                       SLOW),
    (b'{"instances\xc3":[0.1]}',        "",                        {},                                       SLOW),
    (b'{"instances\xed\xa0\x80":[1]}',  "",                        {},                                       SLOW),
    (PLAIN.decode().encode("utf-16"),   "",                        {},                                       SLOW),
]
# fmt: on


def body_of(signature: str, form: str, value: str) -> bytes:
    named = f'"signature_name":"{signature}",' if signature else ""
    return f'{{{named}"{form}":{value}}}'.encode()


def check(compare: Ask, folder: Path, cases: list[tuple[Any, bool]], **settings: str) -> None:
    """Assert that each is answered as without the accelerator, and in the way that is told."""
    found = compare(folder, [question for question, _ in cases], **settings)
    assert [case for case, came in zip(cases, found, strict=True) if case[1] is not came[1]] == []


def numbers(dtype: str) -> list[tuple[str, bool]]:
    """Return every number of the tables with the way that it goes for a dtype."""
    kind = np.dtype(dtype).kind

    def fits(text: str) -> bool:
        if kind == "f":
            return True
        value = float(text) if set(text) & set(".eE") else int(text)  # 3.0 is an integer, 3.5 is none
        return value == int(value) and np.iinfo(dtype).min <= int(value) <= np.iinfo(dtype).max

    return [
        *((text, fits(text)) for text in INTEGERS),
        *((text, fits(text)) for text in DECIMALS),
        *((text, dtype == "float64") for text in DOUBLES),
        *((text, kind == "f") for text in TINY),
        *((text, SLOW) for text in [*LONG, *BEYOND, *WRONG]),
    ]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_number_in_every_dtype(compare: Ask, dtype: str) -> None:
    cases = []
    for text, way in numbers(dtype):
        for form, value in (
            ("instances", f"[{text}]"), ("instances", f"[1,{text} ]"), ("inputs", f"[{text},0]"),
            ("inputs", f'{{"x":[{text}]}}'), ("instances", f'[{{"x":{text}}}]'),
        ):  # fmt: skip
            if text != "1,5":  # two numbers, in a list
                cases.append((body_of(dtype, form, value), way))
    check(compare, build() / "types", cases)


def test_every_number_as_a_scalar(compare: Ask) -> None:
    cases = [(body_of("scalar", "inputs", text), way) for text, way in numbers("float64")]
    check(compare, build() / "shapes", cases)


def test_bools_are_declined(compare: Ask) -> None:
    cases = [(body_of("bool", "instances", f"[{text}]"), SLOW) for text in ("true", "false", "1", "0", "true,false")]
    check(compare, build() / "types", cases)


def test_shapes(compare: Ask) -> None:
    cases = [(body_of(signature, form, tensor), way) for signature, form, tensor, way in TENSORS]
    check(compare, build() / "shapes", cases)


def test_bodies(compare: Ask) -> None:
    cases = [(body.replace("X", "[[1,2.5],[-3,4]]").encode(), way) for body, way in BODIES]
    check(compare, build() / "shapes", cases)


def test_every_string(compare: Ask) -> None:
    cases = []
    for text, way in STRINGS:
        for signature, form, value in (
            ("", "instances", f"[{text}]"), ("raw", "instances", f'["a",{text} ]'), ("both", "inputs", f'[{text},"b"]'),
            ("both", "instances", f"[ {text}]"), ("", "inputs", f'{{"x":[{text}]}}'), ("raw", "instances", f'[{{"x":{text}}}]'),
            ("scalar", "inputs", text), ("scalar", "inputs", f'{{"x":{text}}}'), ("matrix", "inputs", f'[["a",{text}]]'),
        ):  # fmt: skip
            named = f'"signature_name":"{signature}",' if signature else ""
            cases.append((f'{{{named}"{form}":{value}}}'.encode("utf-8", "surrogateescape"), way))
    check(compare, build() / "strings", cases)


@pytest.mark.parametrize("escaped", [True, False])
def test_every_character(serve: Serve, compare: Ask, extension: Path, escaped: bool) -> None:
    every = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    texts = ["".join(every[start : start + 997]) for start in range(0, len(every), 997)]
    bodies = [
        json.dumps({"instances": texts[start : start + 200]}, ensure_ascii=escaped).encode()
        for start in range(0, len(texts), 200)
    ]
    check(compare, build() / "strings", [(body, QUICK) for body in bodies])
    serve(build() / "strings", ACCELERATOR=str(extension))
    for body in bodies:
        answer: Any = accelerator.of(loading.cache().get()).predict(body)
        assert json.loads(answer[0])["predictions"] == json.loads(body)["instances"]


def test_every_kind_of_broken_utf8_in_and_out(compare: Ask) -> None:
    leads = b"\x7f\x80\xbf\xc0\xc1\xc2\xdf\xe0\xe1\xec\xed\xee\xef\xf0\xf1\xf3\xf4\xf5\xf7\xf8\xff"
    cases = []
    for sequence in itertools.product(
        leads, b"\x00\x41\x7f\x80\x8f\x90\x9f\xa0\xbf\xc0", b"\x80\xbf\x7f\xc0", b"\x80\xbf\x7f"
    ):
        for size in range(2 if sequence[1:] == (0, 0x80, 0x80) else 4, 5):
            data = bytes(sequence[:size]).replace(b"\0", b"")
            try:
                data.decode()
                way = QUICK
            except UnicodeDecodeError:
                way = SLOW
            cases.append((b'{"instances":["%b"]}' % data, way))
            encoded = base64.b64encode(data)
            cases.append((b'{"instances":[{"b64":"%b"},"a",{"b64":"%b"}]}' % (encoded, encoded), QUICK))
    check(compare, build() / "strings", cases)


def test_every_bit_of_base64(compare: Ask) -> None:
    random_ = random.Random("base64")
    cases = []
    for size in [*range(1, 100), 1000, 4096]:
        text = base64.b64encode(random_.randbytes(size))
        cases.append((b'{"signature_name":"raw","instances":[{"b64":"%b"}]}' % text, QUICK))
        place = random_.randrange(len(text.rstrip(b"=")))
        wrong = text[:place] + random_.choice([b"-", b"_", b" ", b".", b"\xc3\xa9", b"\\"]) + text[place + 1 :]
        cases.append((b'{"signature_name":"raw","instances":[{"b64":"%b"}]}' % wrong, SLOW))
        cases.append(
            (b'{"signature_name":"raw","instances":[{"b64":"%b"}]}' % text.replace(b"=", b"", 1), b"=" not in text)
        )
    check(compare, build() / "strings", cases)


def test_strings_in_every_place(compare: Ask) -> None:
    check(compare, build() / "strings", [(body_of(*case), way) for *case, way in TEXTS])
    check(compare, build() / "named_b64", [(body_of(*case), way) for *case, way in NAMED_B64])


def test_a_body_of_strings_that_is_cut_anywhere_is_declined(compare: Ask) -> None:
    body = r' {"signature_name":"mixed","instances":[{"a":"é\ud83d\ude00\n\u00e9","b":[1,2]},{"a":{"b64":"/w=="},"b":[3,4]}]}'
    cases: list[tuple[bytes, bool]] = [(body.encode()[:size], SLOW) for size in range(len(body.encode()))]
    check(compare, build() / "strings", [*cases, (body.encode(), QUICK)])


def test_a_body_that_is_cut_anywhere_is_declined(compare: Ask) -> None:
    body = b' {"signature_name" : "three", "instances": [{"x":[1.5,-2e1, 3]} ,{"x": [4,5,6]}]}'
    cases: list[tuple[bytes, bool]] = [(body[:size], SLOW) for size in range(len(body))]
    check(compare, build() / "shapes", [*cases, (body, QUICK)])


def test_white_space_is_taken_wherever_json_has_it(compare: Ask) -> None:
    tokens = ["", "{", '"signature_name"', ":", '"three"', ",", '"instances"', ":", "[", "{", '"x"', ":", "[", "1", ",",
              "-2.5e1", ",", "3", "]", "}", "]", "}", ""]  # fmt: skip
    cases = []
    for place in range(1, len(tokens)):
        head, tail = "".join(tokens[:place]), "".join(tokens[place:])
        cases += [((head + space + tail).encode(), QUICK) for space in (" ", "\t", "\n", "\r", " \n\t\r" * 9)]
        cases += [((head + space + tail).encode(), SLOW) for space in ("\x0b", "\x0c", "\0", "\x85", "\u2003", "\\n")]
    check(compare, build() / "shapes", cases)


def test_several_inputs_and_outputs(compare: Ask) -> None:
    cases = [(body_of(*case), way) for *case, way in SEVERAL]
    check(compare, build() / "several", cases)


def test_outputs_that_it_does_not_write_and_runs_that_fail(compare: Ask) -> None:
    cases = [(body_of(*case), way) for *case, way in UNLIKE]
    check(compare, build() / "unlike", cases)


@pytest.mark.parametrize("non_finite", ["tokens", "null"])
def test_answers_of_nan_and_infinity(compare: Ask, non_finite: str) -> None:
    cases = [(body_of(*case), QUICK) for case in INFINITE]
    check(compare, build() / "infinite", cases, NON_FINITE=non_finite)


@pytest.mark.parametrize(("settings", "name", "body", "way"), LIMITS)
def test_limits(compare: Ask, settings: dict[str, str], name: str, body: str, way: bool) -> None:
    check(compare, build() / name, [(body.encode(), way)], **settings)


def test_requests(compare: Ask) -> None:
    cases = [((body, query, headers), way) for body, query, headers, way in REQUESTS]
    check(compare, build() / "types", cases)


@pytest.mark.parametrize("name", ["types", "shapes", "several", "infinite", "unlike", "strings", "named_b64"])
@pytest.mark.parametrize("non_finite", ["tokens", "null"])
def test_bodies_made_by_chance(compare: Ask, name: str, non_finite: str) -> None:
    bodies = Writer(build() / name, f"{name} {non_finite}").bodies(rounds(900))
    found = compare(build() / name, bodies, NON_FINITE=non_finite)
    answered = sum(was_taken for _, was_taken in found)
    assert answered > len(bodies) * (0.05 if name == "unlike" else 0.15)
    assert answered < len(bodies) * 0.9


# Models of the zoo for which it is never asked: a type of input that it does not read, none, or one of unknown rank, an
# output that is fed, parts of one tensor.
NOT_PLAIN = {
    *(f"dtype_{name}" for name in zoo.DTYPES), "many_named", "no_inputs", "shared_variables", "control_flow",
    "ragged_input", "failures", "tf1_passthrough", "tf1_names", "sparse_input",
}  # fmt: skip
UNDECIDED = {"random_stateful", "py_function"}


def json_of(value: Any) -> Any:
    """Return a nest of elements as a body has it, bytes as base64."""
    if isinstance(value, list):
        return [json_of(one) for one in value]
    return {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


@pytest.mark.parametrize("name", [name for name in zoo.ZOO if zoo.cases(name) and name not in UNDECIDED])
def test_the_zoo(compare: Ask, name: str) -> None:
    bodies = []
    for case in zoo.cases(name):
        inputs = {key: np.asarray(value) for key, value in case["inputs"].items()}
        if any(array.dtype.kind not in "biufSUO" or array.size > 1 << 16 for array in inputs.values()):
            continue
        columns = {key: json_of(array.tolist()) for key, array in inputs.items()}
        forms: list[dict[str, Any]] = [{"inputs": columns}]
        if len(columns) == 1:
            forms += [{form: next(iter(columns.values()))} for form in ("inputs", "instances")]
        if columns and all(array.ndim for array in inputs.values()):
            rows = [dict(zip(columns, row)) for row in zip(*columns.values())]
            forms.append({"instances": rows})
        bodies += [json.dumps({"signature_name": case["signature"], **form}).encode() for form in forms]
    libraries = {"CUSTOM_OP_LIBRARIES": str(zoo.build() / name / "zero_out.so")} if name == "custom_op" else {}
    found = compare(zoo.build() / name, bodies, **libraries)
    assert any(was_taken for _, was_taken in found) == (name not in NOT_PLAIN)


def test_the_embedded_model(compare: Ask, examples: dict[str, Any]) -> None:
    compare(EMBEDDED, [json.dumps(body).encode() for body in examples.values()])


def test_the_model_of_another_folder_is_answered_by_its_own(serve: Serve, compare: Ask, extension: Path) -> None:
    """Each load has its own: what was prepared for the model before is not asked."""
    for _ in range(2):
        check(compare, build() / "types", [(PLAIN, QUICK)])
        check(compare, build() / "infinite", [(PLAIN, QUICK)])
    first = accelerator.of(loading.cache().get())
    assert accelerator.of(loading.cache().get()) is first
    serve(build() / "infinite", ACCELERATOR=str(extension))
    assert accelerator.of(loading.cache().get()) is not first
    assert handler.answer(Request("POST", "/", body=PLAIN)).body == b'{"predictions":[1.0,2.0]}'


def test_through_the_door(serve: Serve, extension: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    """As a server asks: the headers, their names at least, are the same too, the first time and later."""
    from tests.fuzz.requests import environ

    natively, taken = layers.natively, Counter[bool]()

    def watched(exchange: Any) -> Any:
        response = natively(exchange)
        taken[response is not None] += 1
        return response

    monkeypatch.setattr(layers, "natively", watched)
    message = b"POST /v1/models/types:predict HTTP/1.1\r\n\r\n" + PLAIN
    told = []
    for way in ("off", str(extension)):
        serve(build() / "types", MODEL_NAME="types", ACCELERATOR=way, LOG_REQUESTS="all")
        monkeypatch.setattr(phases, "pending", True)
        answers = []
        for _ in range(3):
            started: list[Any] = []
            body = b"".join(wsgi.app(environ(message), lambda *of, to=started: to.append(of)))
            ((status, headers),) = started
            names = sorted(name for name, _ in headers)
            answers.append((status, names, body))
        told.append(answers)
    assert told[0] == told[1]
    assert told[0][0][2] == b'{"predictions":[1.0,0.5]}'
    assert taken == {False: 3, True: 3}
    capfd.readouterr()
