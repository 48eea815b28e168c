"""Paints `landscape.jpg`: a lake between hills at evening, the same at every run.

    pip install pillow && python paint.py

The picture is made of nothing but these lines, so it is free for any use (CC0).
"""

from __future__ import annotations

import math
import random
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFilter

WIDTH, HEIGHT = 1200, 800
HORIZON = 470
SUN = (815, 395)
Colour = tuple[int, int, int]


def mix(first: Colour, second: Colour, part: float) -> Colour:
    """Go from one colour to another by a part between 0 and 1."""
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(first, second, strict=True))
    return red, green, blue


def sky() -> Image.Image:
    """Paint a gradient with the sun's glow and some cloud."""
    column = Image.new("RGB", (1, HEIGHT))
    for y in range(HEIGHT):
        column.putpixel((0, y), mix((44, 66, 118), (250, 186, 120), min(1.0, y / HORIZON) ** 1.4))
    picture = column.resize((WIDTH, HEIGHT))
    glow = Image.new("L", (WIDTH, HEIGHT))
    draw = ImageDraw.Draw(glow)
    for radius in range(420, 30, -2):
        draw.ellipse(circle(SUN, radius), fill=round(190 * (1 - radius / 420) ** 2))
    picture.paste((255, 236, 190), mask=glow)
    ImageDraw.Draw(picture).ellipse(circle(SUN, 30), fill=(255, 248, 226))
    clouds = noise(WIDTH // 90, HEIGHT // 18).point(lambda value: max(0, value - 150) * 1.1)
    picture.paste((255, 214, 186), mask=clouds)
    return picture


def circle(centre: tuple[int, int], radius: int) -> tuple[int, int, int, int]:
    """Give the box around a circle."""
    return centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius


def noise(columns: int, rows: int) -> Image.Image:
    """Paint soft random spots, so many across and down, with finer ones upon them."""
    total = Image.new("L", (WIDTH, HEIGHT))
    for octave in range(4):
        size = (columns << octave, rows << octave)
        layer = Image.frombytes("L", size, chance.randbytes(size[0] * size[1])).resize((WIDTH, HEIGHT), Image.BICUBIC)
        total = ImageChops.add(total, layer.point(lambda value, octave=octave: value >> (octave + 1)))
    return total


def ridge(base: float, height: float, roughness: float) -> list[float]:
    """Make the line of a hill chain: waves of growing frequency and falling height."""
    phases = [chance.uniform(0, math.tau) for _ in range(9)]
    line = []
    for x in range(WIDTH):
        rise = sum(math.sin(x / WIDTH * 2.1 * 1.9**n + phase) * roughness**n for n, phase in enumerate(phases))
        line.append(base - height * (0.6 + 0.4 * rise))
    return line


def hills(picture: Image.Image) -> None:
    """Paint five chains, each nearer, darker and with more texture than the last."""
    for step in range(5):
        near = step / 4
        line = ridge(HORIZON + 4, 190 - 130 * near, 0.5 + 0.08 * near)
        mask = Image.new("L", picture.size)
        ImageDraw.Draw(mask).polygon([(0, HORIZON), *enumerate(line), (WIDTH, HORIZON)], fill=255)
        colour = mix((128, 108, 128), (24, 40, 36), near**0.7)
        chain = Image.new("RGB", picture.size, colour)
        lighter = mix(colour, (230, 180, 130), 0.25)
        chain.paste(lighter, mask=noise(60, 50).point(lambda value, near=near: round(max(0, value - 90) * near)))
        picture.paste(chain, mask=mask.filter(ImageFilter.GaussianBlur(1.2 - near)))


def lake(picture: Image.Image) -> None:
    """Mirror what is above the horizon, with ripples that grow towards us."""
    mirror = picture.crop((0, 0, WIDTH, HORIZON)).transpose(Image.FLIP_TOP_BOTTOM)
    for y in range(HORIZON, HEIGHT):
        depth = y - HORIZON
        sway = round(math.sin(depth**0.8 * 1.3) * depth / 40 + chance.uniform(-1, 1) * depth / 50)
        row = mirror.crop((0, min(depth, HORIZON - 1), WIDTH, min(depth, HORIZON - 1) + 1))
        picture.paste(ImageChops.offset(row, sway, 0), (0, y))
    water = Image.new("RGB", (WIDTH, HEIGHT - HORIZON), (20, 38, 66))
    picture.paste(water, (0, HORIZON), Image.new("L", water.size, 70))
    glints = ImageDraw.Draw(picture)
    for _ in range(900):
        y = HORIZON + round((HEIGHT - HORIZON) * chance.random() ** 2)
        x = SUN[0] + chance.gauss(0, 12 + (y - HORIZON) * 0.35)
        glints.line((x, y, x + chance.uniform(2, 6 + (y - HORIZON) / 12), y), fill=(255, 222, 170))


def shore(picture: Image.Image) -> None:
    """Paint reeds in the foreground."""
    draw = ImageDraw.Draw(picture)
    for _ in range(1500):
        x = abs(chance.gauss(0, 170)) if chance.random() < 0.6 else WIDTH - abs(chance.gauss(0, 110))
        length = chance.uniform(30, 150) * max(0.3, 1 - min(x, WIDTH - x) / 420)
        bend = chance.uniform(-0.35, 0.35) * length
        foot = (x, HEIGHT + chance.uniform(0, 30))
        colour = mix((12, 20, 16), (92, 84, 46), chance.random() ** 2)
        middle = (x + bend * 0.3, foot[1] - length * 0.6)
        draw.line([foot, middle, (x + bend, foot[1] - length)], fill=colour, width=chance.choice((1, 2, 2, 3)))


def grain(picture: Image.Image) -> Image.Image:
    """Add the noise of a camera's sensor."""
    spots = Image.frombytes("L", picture.size, chance.randbytes(WIDTH * HEIGHT)).filter(ImageFilter.GaussianBlur(0.7))
    return ImageChops.add(picture, spots.point(lambda value: value // 5).convert("RGB"), offset=-25)


if __name__ == "__main__":
    chance = random.Random(7)  # noqa: S311 - the same picture every time is what is wanted
    painting = sky()
    hills(painting)
    lake(painting)
    shore(painting)
    grain(painting).save(Path(__file__).with_name("landscape.jpg"), quality=80)
