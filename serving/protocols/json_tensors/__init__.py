"""JSON values ↔ arrays.

    document   a parsed body: its members, and how its brackets stand
    reader     a JSON value → an array of a declared dtype and shape
    elements   the elements of an array → numbers, booleans or bytes
    writer     an array → a value for the JSON writer

JSON is RFC 8259 <https://www.rfc-editor.org/rfc/rfc8259> and what TensorFlow Serving adds to it: the tokens NaN,
Infinity and -Infinity, and a byte-order mark. An object in which a key appears twice is refused.
"""
