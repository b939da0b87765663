"""A network of few blocks in place of the whole one: everything but the time that fifty layers take."""

from greffon.backbone.resnet import resnet
from greffon.weights.sets import usual_preprocessing


def short_backbone(blocks=(1, 1, 1, 1), variant="thin"):
    """What `purpose.build_backbone` is replaced by: random weights, the blocks of each group, whatever is asked for."""

    def build(start, recipe):
        shape = (recipe.image_size, recipe.image_size, 3)
        return resnet(blocks, variant, input_shape=shape), usual_preprocessing(variant), []

    return build
