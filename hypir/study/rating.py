"""The page of `python -m hypir rate`: one picture at a time, blind, keyboard first.

The server is aiohttp, which ComfyUI runs on too. It sends pixels and nothing else: pictures are
written anew without their metadata (ComfyUI saves the whole graph in its PNGs), under addresses
that are hashes. No answer of the server names a method or a photo.
"""

import asyncio
import hashlib
import hmac
import io
import ipaddress
import re
import secrets
from pathlib import Path

import numpy as np
from aiohttp import web
from PIL import Image

from hypir.train.pictures import read_picture

from .folder import INPUTS, TRUTH, Study, secret_of
from .marks import Answer, Question, add_answer, is_value, read_answers
from .questions import questions

PAGE = Path(__file__).with_name("page.html")
RATER = re.compile(r"[a-z0-9]{4,16}")
COOKIE = "token"
LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"
"""Of a rater's code; without those that look alike."""
LOCAL_NAMES = ("127.0.0.1", "localhost", "[::1]")


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Rating:
    """A study as its raters see it."""

    def __init__(
        self,
        study: Study,
        criterion: str = "",
        rounds: int = 1,
        pairs: bool = False,
        repeats: float = 0.1,
    ) -> None:
        """Arguments as for questions.questions; `criterion` is shown above the pictures."""
        self.study, self.criterion, self.rounds = study, criterion, rounds
        self.pairs, self.repeats = pairs, repeats
        self.secret = secret_of(study)
        self.asked: dict[str, list[Question]] = {}
        self.places: dict[str, Path] = {}
        self.of("code")  # what is wrong with the arguments is said before the page opens

    def of(self, rater: str) -> list[Question]:
        """The rater's questions in order."""
        if rater not in self.asked:
            self.asked[rater] = questions(
                self.study.methods,
                self.study.photos,
                f"{self.secret}/{rater}",
                self.rounds,
                self.pairs,
                self.repeats,
            )
        return self.asked[rater]

    def answers(self, rater: str) -> dict[int, str]:
        """The rater's answers by the number of the question, as the files have them."""
        asked = self.of(rater)
        return {
            answer.question.number: answer.value
            for answer in read_answers(self.study.marks, rater)
            if answer.question.number < len(asked)
            and answer.question == asked[answer.question.number]
        }

    def address(self, rater: str, number: int, part: str) -> str | None:
        """The address of a picture; None if the study has none."""
        question = self.of(rater)[number]
        owner = {"first": question.method, "second": question.other}.get(part, part)
        file = self.study.files.get((owner, question.photo))
        if file is None:
            return None
        name = hmac.new(self.secret.encode(), f"{rater}/{number}/{part}".encode(), hashlib.sha256)
        self.places[name.hexdigest()[:24]] = file
        return f"/picture/{name.hexdigest()[:24]}"

    def state(self, rater: str, number: int | None) -> dict:
        """What the page shows: the question of a number, else the first that is not answered."""
        asked, given = self.of(rater), self.answers(rater)
        if number is None:
            number = next((q.number for q in asked if q.number not in given), len(asked))
        state = {
            "rater": rater,
            "criterion": self.criterion,
            "pairs": self.pairs,
            "number": number,
            "total": len(asked),
            "answered": len(given),
        }
        if number >= len(asked):
            return state | {"done": True}
        parts = ("first", "second", INPUTS, TRUTH) if self.pairs else ("first", INPUTS, TRUTH)
        return state | {
            "round": asked[number].round,
            "rounds": self.rounds,
            "value": given.get(number),
            "pictures": {part: self.address(rater, number, part) for part in parts},
        }


def application(rating: Rating, token: str = "", local: bool = True) -> web.Application:
    """The page's server.

    Args:
        rating: the study.
        token: what the first address must carry; empty if none is needed.
        local: refuse requests under another name than this machine's own, so that no page of the
            web can reach the server through the visitor's browser.
    """

    @web.middleware
    async def guard(request: web.Request, handler):
        if local and request.host.rpartition(":")[0] not in LOCAL_NAMES:
            raise web.HTTPForbidden(text="this page answers on this machine alone")
        given = request.query.get("token") or request.cookies.get(COOKIE, "")
        if token and not hmac.compare_digest(given.encode(), token.encode()):
            raise web.HTTPForbidden(text="the address must end in ?token=... as `rate` printed it")
        answer = await handler(request)
        answer.headers["Cache-Control"] = "no-store"
        answer.headers["Content-Security-Policy"] = "default-src 'self' 'unsafe-inline' blob: data:"
        if token and request.query.get("token"):
            answer.set_cookie(COOKIE, token, httponly=True, samesite="Strict")
        return answer

    async def page(_: web.Request) -> web.Response:
        return web.Response(text=PAGE.read_text(encoding="utf-8"), content_type="text/html")

    async def state(request: web.Request) -> web.Response:
        rater = _rater(request.query.get("rater", ""))
        number = request.query.get("number")
        return web.json_response(rating.state(rater, None if number is None else int(number)))

    async def answer(request: web.Request) -> web.Response:
        said = await request.json()
        rater, number = _rater(said.get("rater", "")), said.get("number")
        asked = rating.of(rater)
        if not isinstance(number, int) or not 0 <= number < len(asked):
            raise web.HTTPBadRequest(text=f"there is no question {number!r}")
        question, value = asked[number], said.get("value")
        if not is_value(question.kind, value):
            raise web.HTTPBadRequest(text=f"{value!r} is no answer to a {question.kind}")
        add_answer(rating.study.marks, Answer(rater, question, value), float(said["seconds"]))
        return web.json_response(rating.state(rater, number + 1))

    async def picture(request: web.Request) -> web.Response:
        file = rating.places.get(request.match_info["name"])
        if file is None:
            raise web.HTTPNotFound(text="there is no such picture")
        pixels = await asyncio.to_thread(read_picture, file)
        return web.Response(body=await asyncio.to_thread(_png, pixels), content_type="image/png")

    server = web.Application(middlewares=[guard])
    server.router.add_get("/", page)
    server.router.add_get("/state", state)
    server.router.add_post("/answer", answer)
    server.router.add_get("/picture/{name}", picture)
    return server


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _rater(code: str) -> str:
    if not code:
        return "".join(secrets.choice(LETTERS) for _ in range(6))
    if not RATER.fullmatch(code):
        raise web.HTTPBadRequest(text="a rater's code has 4 to 16 small letters and digits")
    return code


async def serve(rating: Rating, host: str, port: int, say) -> None:
    """Serve until cancelled; `say` gets the page's address once it is open."""
    token = "" if is_loopback(host) else secrets.token_urlsafe(16)
    runner = web.AppRunner(application(rating, token, is_loopback(host)), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        port = runner.addresses[0][1]
        say(f"http://{host}:{port}/" + (f"?token={token}" if token else ""))
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
