"""Protocols: the bytes of requests and responses ↔ named arrays.

    tensorflow_serving, classify, regress, open_inference, sagemaker, raw    each a `Codec`: see `codec`
    call, options, sizes                a decoded request, the options in it, the limits that it is held to
    answers, unclear                    what outputs become in JSON; hints for a body that is not what its headers say
    json_tensors, tf_example            JSON ↔ arrays; JSON → serialized tf.Examples
    requests                            arrays → requests, for the tools that send them

Codecs know signatures, never a model, and read no settings: what they need of those is in a `Context`.
"""
