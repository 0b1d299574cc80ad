"""Writes every golden file of this folder. Run without arguments for all, or name parts: see README.md."""

import sys

sys.dont_write_bytecode = True

from deterministic import single_threaded


def main(parts):
    single_threaded()
    import checkpoints
    import inference
    import ours
    import qlora
    import quantized
    import tinystories
    import training

    steps = {"checkpoints": checkpoints.write_all, "inference": inference.write_all,
             "training": training.write_all, "quantized": quantized.write_all, "tinystories": tinystories.write_all, "qlora": qlora.write_all,
             "ours": ours.write_all}
    for part in parts or steps:
        print(part, file=sys.stderr)
        steps[part]()


if __name__ == "__main__":
    main(sys.argv[1:])
