"""EasyOCR user network: convolutions only, CTC. The reader for losses; it never judges."""

import torch.nn as nn


class Model(nn.Module):
    """Grey image [B, 1, 32, W] in −1 … 1 → logits [B, W / 2, num_class]; class 0 is the CTC blank.

    Strided convolutions and SiLU throughout: no pooling and no kink, so that gradients reach every pixel smoothly.
    """

    def __init__(self, num_class, channels, hidden_size):
        super().__init__()

        def block(inputs, outputs, stride):
            return [
                nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.SiLU(),
            ]

        def context(inputs, outputs):
            return [nn.Conv1d(inputs, outputs, 5, padding=2, bias=False), nn.BatchNorm1d(outputs), nn.SiLU()]

        self.features = nn.Sequential(
            *block(1, channels, (1, 1)),
            *block(channels, 2 * channels, (2, 2)),
            *block(2 * channels, 2 * channels, (2, 1)),
            *block(2 * channels, 3 * channels, (2, 1)),
            *block(3 * channels, 3 * channels, (2, 1)),
        )
        self.context = nn.Sequential(*context(3 * channels * 2, hidden_size), *context(hidden_size, hidden_size))
        self.prediction = nn.Linear(hidden_size, num_class)

    def forward(self, image, text=None):
        columns = self.features(image).flatten(1, 2)
        return self.prediction(self.context(columns).transpose(1, 2))
