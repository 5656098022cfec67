"""The builder of the tiny dataset."""

import numpy as np
import tensorflow_datasets as tfds


class TinyPairs(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        text = tfds.features.Text()
        table = {"column_header": text, "row_number": np.int16, "content": text}
        features = {
            "input_text": {"table": tfds.features.Sequence(table)},
            "target_text": text,
            "words": tfds.features.Sequence(text),
            "label": tfds.features.ClassLabel(num_classes=2),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(10), "test": self._generate_examples(3)}

    def _generate_examples(self, count):
        for i in range(count):
            yield (
                i,
                {
                    "input_text": {
                        "table": [
                            {"column_header": "name", "row_number": 1, "content": f"Café {i}"},
                            {"column_header": "food", "row_number": 1, "content": "Thai"},
                        ]
                    },
                    "target_text": f"Café {i} serves Thai food .",
                    "words": ["thai", "food"],
                    "label": i % 2,
                },
            )
