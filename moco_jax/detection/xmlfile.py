"""XML of annotations, read with nothing that XML can do besides: no document types, no entities."""

from xml.etree import ElementTree
from xml.parsers import expat

from moco_jax.errors import InputError

_MOST = 16 << 20  # bytes of one file of annotations: 50,000 boxes
_DEEPEST = 32  # elements within each other


def parse(data: bytes, name: str) -> ElementTree.Element:
    """The root of a file of annotations.

    Args:
      data: the file's bytes.
      name: of the file, for errors.

    Raises:
      InputError: it is no XML, larger or deeper than annotations are, or declares a document type:
        entities of one can become gigabytes, or the content of other files.
    """
    if len(data) > _MOST:
        raise InputError(f"{name}: {len(data):,} bytes of XML; expected at most {_MOST:,}")
    tree, parser = ElementTree.TreeBuilder(), expat.ParserCreate()
    depth = 0

    def begin(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _DEEPEST:
            raise InputError(f"{name}: XML of more than {_DEEPEST} elements within each other")
        tree.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        tree.end(tag)

    def refuse(*_: object) -> None:
        raise InputError(f"{name}: XML with a document type, which annotations do not have")

    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = begin, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = tree.data, refuse
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError, LookupError) as error:  # the latter: its encoding
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name} is no XML: {error}") from error
    return tree.close()
