"""EasyOCR user network: convolutions, two bidirectional LSTM layers, CTC. The judge; no loss sees it."""

import torch.nn as nn


class Model(nn.Module):
    """Grey image [B, 1, 32, W] in −1 … 1 → logits [B, W / 2, num_class]; class 0 is the CTC blank."""

    def __init__(self, num_class, channels, hidden_size):
        super().__init__()
        widths = [1, channels, channels, 2 * channels, 2 * channels, 3 * channels]
        pools = [(2, 2), None, (2, 1), None, (2, 1)]
        layers = []
        for inputs, outputs, pool in zip(widths[:-1], widths[1:], pools, strict=True):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
            if pool:
                layers.append(nn.MaxPool2d(pool))
        self.features = nn.Sequential(*layers)
        self.squeeze = nn.Linear(3 * channels * 4, 2 * hidden_size)
        self.sequence = nn.LSTM(2 * hidden_size, hidden_size, num_layers=2, bidirectional=True, batch_first=True)
        # The shortcut around the LSTM lets the convolutions learn to read before the LSTM does.
        self.shortcut = nn.Linear(2 * hidden_size, num_class)
        self.prediction = nn.Linear(2 * hidden_size, num_class)

    def forward(self, image, text=None):
        columns = self.features(image).permute(0, 3, 1, 2).flatten(2)
        columns = self.squeeze(columns).relu()
        return self.prediction(self.sequence(columns)[0]) + self.shortcut(columns)
