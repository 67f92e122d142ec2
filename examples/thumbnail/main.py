"""Makes a thumbnail: a PNG or JPEG in, the same kind out, no side longer than `?size=` pixels."""

import io

from PIL import Image

from atlatl_worker import Request, Response


def main(request: Request) -> Response:
    try:
        size = int(request.query.get("size", "128"))
        image = Image.open(io.BytesIO(request.body), formats=["PNG", "JPEG"])
        image.thumbnail((size, size))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        return Response(f"no thumbnail can be made of this: {error}", status=400)
    out = io.BytesIO()
    image.save(out, format=image.format)
    return Response(out.getvalue(), headers={"content-type": Image.MIME[image.format]})
