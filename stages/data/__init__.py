"""Reading COCO-format data, decoding images safely, drawing views and crops, and the embedded data set."""
