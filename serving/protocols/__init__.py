"""Protocols: the bytes of requests and responses ↔ named arrays.

    tensorflow_serving, classify, regress, open_inference, sagemaker, raw    each a `Codec`: see `codec`
    call, options, sizes                a decoded request, its options, its limits
    answers, unclear                    outputs in JSON; hints for a body that does not match its headers
    json_tensors, tf_example            JSON ↔ arrays; JSON → serialized tf.Examples
    requests                            arrays → requests, for the tools that send them

Codecs know signatures, never a model, and read no settings: a `Context` has the values that they need.
"""
