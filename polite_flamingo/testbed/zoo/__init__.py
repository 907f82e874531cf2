"""The tiny models of the embedded default profile: honestly trained on Shapes, shipped as safetensors in `weights/`.

`python -m polite_flamingo.testbed.zoo.train NAME` trains one from scratch, `….evaluate` measures all of them on unseen
scenes and writes the figures into the model cards. The pipeline loads them with the same code as published weights
(`hub.resolve("zoo:NAME")`); nothing outside this package imports it.
"""
