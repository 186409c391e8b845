"""Images of the validation set that are in the training set too."""

from __future__ import annotations

from stages.prepare.overlap import shared_images
from stages.prepare.stage import INSTANCES, steps
from storage_schemas.formats.instances import write_instances
from storage_schemas.paths.facts import FileFacts
from storage_schemas.paths.local import LocalPath
from storage_schemas.store.store import Draft
from tests.support.instance_samples import make_instances
from tests.support.step_samples import make_context


def test_shared_images_are_counted_by_content_and_named_as_in_the_validation_set(tmp_path: LocalPath) -> None:
    context = make_context(tmp_path)
    assert shared_images(context) == []
    # Two instances of the training set are on one image. The images 5 and 6 of the validation set are copies of 1 and 3.
    hashes = {"train": {1: "a", 2: "b", 3: "c"}, "val": {4: "d", 5: "a", 6: "c", 7: "e"}}
    for step in steps(context):
        of_images = hashes[step.split]
        images = [1, *of_images] if step.split == "train" else list(of_images)
        facts = {image_id: FileFacts(0, sha256) for image_id, sha256 in of_images.items()}
        with context.store.draft(step.kind, step.recipe) as draft:
            assert isinstance(draft, Draft)
            write_instances(draft.work / INSTANCES, make_instances(images, facts=facts))
            draft.commit([INSTANCES], measured={})
    (finding,) = shared_images(context)
    assert (finding.count, finding.of, finding.example) == (2, 4, "5.png")
    assert finding.seen.startswith("2 of 4 images of the validation set are in the training set too")
