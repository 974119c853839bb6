"""From an image file to a batch: images -> dataset -> transforms -> sampler -> loader -> mixup."""
