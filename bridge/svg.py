"""A picture's layers traced to an SVG: outlines by vtracer, colours as the layers' own gradients."""

import io
import re
import warnings
from xml.sax.saxutils import escape

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from bridge.captions import well_formed
from bridge.codecs import ImageCodec
from bridge.codecs.palette import Layers, PaletteCodec
from bridge.errors import UserError, import_extra

TRACED = 512  # side in pixels at which the layers' masks are traced
OVERLAP = 3  # pixels of TRACED by which a layer goes on below those above it, so that nothing shines through
SPECKS = 6  # regions of fewer than so many pixels squared are left out
STOPS = 5  # colours of a gradient
PLAIN = 0.02  # a layer whose colour changes by less across the picture is of one colour
CHECKED = 128  # side in pixels at which a tracing is compared with the picture
LARGEST_ERROR = 0.05  # mean difference between them, in [0, 1], that is warned of
_PATH = re.compile(r'<path d="([^"]*)"[^>]*?transform="translate\(([-0-9.]+),([-0-9.]+)\)"')


def check_traceable(codec: ImageCodec) -> PaletteCodec:
    """The codec. Raises UserError if its pictures cannot be traced, or a library is missing."""
    if not isinstance(codec, PaletteCodec):
        raise UserError("svg: this model does not draw in layers, which is what is traced; leave it out")
    import_extra("vtracer", "svg", "vtracer", "an SVG")
    import_extra("resvg_py", "svg", "resvg-py", "an SVG")
    return codec


def trace(codec: ImageCodec, z: Tensor, *, transparent: bool = False, title: str = "") -> str:
    """The SVG of a latent (*z_shape); `transparent` is without the white background, `title` what it shows.

    Raises UserError, see `check_traceable`, or if resvg cannot open the SVG; warns if it draws it otherwise.
    """
    layers = check_traceable(codec).layers(z[None])
    text = svg_of(layers, transparent=transparent, title=title)
    error = float(np.abs(drawn(text) - drawn_layers(layers)).mean())
    if error > LARGEST_ERROR:
        differs = f"the SVG of {title[:40]!r} differs from the picture by {error:.2f} of 1"
        warnings.warn(f"{differs}: its layers are too soft", stacklevel=2)
    return text


def svg_of(layers: Layers, *, transparent: bool = False, title: str = "") -> str:
    """Traced layers of one picture, the largest at the bottom; see `trace`."""
    masks = F.interpolate(layers.logits, size=(TRACED, TRACED), mode="bicubic")[0]
    owner = masks.argmax(0).numpy()
    owner[masks.softmax(0)[0].numpy() > 0.5] = 0
    areas = np.bincount(owner.ravel(), minlength=len(masks))
    order = [int(k) for k in np.argsort(-areas, kind="stable") if k != 0 and areas[k] > SPECKS**2]
    title = re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", well_formed(title))  # XML's own
    parts, gradients = [], []
    for place, k in enumerate(order):
        own, above = owner == k, np.isin(owner, order[place + 1 :])
        around = F.max_pool2d(torch.from_numpy(own)[None, None].float(), 2 * OVERLAP + 1, 1, OVERLAP)[0, 0].numpy() > 0
        if outline := _outline(own | (around & above)):
            fill, gradient = _fill(layers.colours[0, k - 1].numpy(), k)
            gradients.append(gradient)
            parts.append(f'<path fill="{fill}" d="{outline}"/>')
    back = "" if transparent else f'<rect width="{TRACED}" height="{TRACED}" fill="#ffffff"/>\n'
    defs = f"<defs>{''.join(gradients)}</defs>\n" if any(gradients) else ""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {TRACED} {TRACED}">'
    return f"{head}\n<title>{escape(title)}</title>\n{defs}{back}" + "\n".join(parts) + "\n</svg>\n"


def _outline(region: np.ndarray) -> str:
    """A region (H, W) as the data of an SVG path, in pixels."""
    vtracer = import_extra("vtracer", "svg", "vtracer", "an SVG")
    pixels = io.BytesIO()
    Image.fromarray(np.where(region, 0, 255).astype(np.uint8)).convert("RGB").save(pixels, "PNG")
    text = vtracer.convert_raw_image_to_svg(
        pixels.getvalue(), img_format="png", colormode="binary", filter_speckle=SPECKS, corner_threshold=70,
        length_threshold=5.0, splice_threshold=60, mode="spline", path_precision=1,
    )  # fmt: skip
    return " ".join(_moved(data, float(x), float(y)) for data, x, y in _PATH.findall(text))


def _moved(data: str, x: float, y: float) -> str:
    """A path's data in absolute coordinates, as vtracer writes it, moved by (x, y)."""
    pair = r"(-?[0-9.]+)[ ,]+(-?[0-9.]+)"
    return re.sub(pair, lambda at: f"{float(at[1]) + x:.5g} {float(at[2]) + y:.5g}", data)


def _fill(colour: np.ndarray, number: int) -> tuple[str, str]:
    """A layer's colour (3, 3) as a fill and the gradient that it needs, if any.

    Each channel may change along a direction of its own; the gradient's is that along which they change most together.
    """
    middle, slopes = colour[:, 0], colour[:, 1:]
    u, s, v = np.linalg.svd(slopes, full_matrices=False)
    if s[0] < PLAIN:
        return _hex(middle), ""
    reach = float(np.abs(v[0]).sum())  # how far the square reaches along the direction
    at = np.linspace(-reach, reach, STOPS)
    stops = "".join(
        f'<stop offset="{place:.3g}" stop-color="{_hex(middle + s[0] * u[:, 0] * way)}"/>'
        for place, way in zip(np.linspace(0, 1, STOPS), at, strict=True)
    )
    (x, y), half = v[0] * reach, TRACED / 2
    ends = f'x1="{half * (1 - x):.5g}" y1="{half * (1 - y):.5g}" x2="{half * (1 + x):.5g}" y2="{half * (1 + y):.5g}"'
    gradient = f'<linearGradient id="g{number}" gradientUnits="userSpaceOnUse" {ends}>{stops}</linearGradient>'
    return f"url(#g{number})", gradient


def _hex(colour: np.ndarray) -> str:
    red, green, blue = (np.clip(colour, 0, 1) * 255).round().astype(int)
    return f"#{red:02x}{green:02x}{blue:02x}"


def drawn(text: str) -> np.ndarray:
    """What resvg draws of an SVG, on white, (CHECKED, CHECKED, 3) in [0, 1]. Raises UserError if it cannot open it."""
    resvg = import_extra("resvg_py", "svg", "resvg-py", "an SVG")
    try:
        data = bytes(resvg.svg_to_bytes(svg_string=text, width=CHECKED, height=CHECKED, background="white"))
    except ValueError as error:
        raise UserError(f"svg: resvg cannot open what was traced ({error}); leave it out") from error
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB")).astype(np.float32) / 255


def drawn_layers(layers: Layers) -> np.ndarray:
    """What the layers of one picture are on white, (CHECKED, CHECKED, 3) in [0, 1]."""
    colour, opacity = layers.draw(CHECKED)
    return (colour + 1 - opacity).clamp(0, 1)[0].permute(1, 2, 0).cpu().numpy()
