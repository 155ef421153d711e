"""The OpenAI and Anthropic SDKs, as an agent uses them, for tests."""

from typing import Final, Self

import anthropic
import openai

DIALECTS: Final = ("chat", "completions", "responses", "messages")

StatusError = openai.APIStatusError, anthropic.APIStatusError
ServerError = openai.InternalServerError, anthropic.InternalServerError
AnyError = openai.APIError, anthropic.APIError


def told(error: BaseException) -> tuple[int, str]:
    """Give the status and the body that an SDK's error tells of."""
    assert isinstance(error, StatusError)
    return error.status_code, str(error.body)


class Sdks:
    """The clients of one rollout, as an agent configures them."""

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        max_retries: int = 0,
        timeout_s: float = 30,
    ) -> None:
        self.openai = openai.AsyncOpenAI(
            base_url=f"{base_url}/v1",
            api_key=api_key,
            max_retries=max_retries,
            timeout=timeout_s,
        )
        self.anthropic = anthropic.AsyncAnthropic(
            base_url=base_url,
            api_key=api_key,
            max_retries=max_retries,
            timeout=timeout_s,
        )

    async def ask(self, dialect: str) -> str:
        """Ask without a stream, and give the text of the answer."""
        match dialect:
            case "chat":
                chat = await self.openai.chat.completions.create(
                    model="m", messages=[{"role": "user", "content": "hi"}]
                )
                return chat.choices[0].message.content or ""
            case "completions":
                completion = await self.openai.completions.create(
                    model="m", prompt="hi"
                )
                return completion.choices[0].text
            case "responses":
                response = await self.openai.responses.create(model="m", input="hi")
                return response.output_text
            case _:
                message = await self.anthropic.messages.create(
                    model="m",
                    max_tokens=9,
                    messages=[{"role": "user", "content": "hi"}],
                )
                return "".join(b.text for b in message.content if b.type == "text")

    async def stream(self, dialect: str) -> str:
        """Ask for a stream, and give the text of all its chunks."""
        text = ""
        match dialect:
            case "chat":
                async for chunk in await self.openai.chat.completions.create(
                    model="m", messages=[{"role": "user", "content": "hi"}], stream=True
                ):
                    text += chunk.choices[0].delta.content or ""
            case "completions":
                async for piece in await self.openai.completions.create(
                    model="m", prompt="hi", stream=True
                ):
                    text += piece.choices[0].text
            case "responses":
                async for event in await self.openai.responses.create(
                    model="m", input="hi", stream=True
                ):
                    if event.type == "response.output_text.delta":
                        text += event.delta
            case _:
                async for raw in await self.anthropic.messages.create(
                    model="m",
                    max_tokens=9,
                    messages=[{"role": "user", "content": "hi"}],
                    stream=True,
                ):
                    if (
                        raw.type == "content_block_delta"
                        and raw.delta.type == "text_delta"
                    ):
                        text += raw.delta.text
        return text

    async def close(self) -> None:
        """Close the connections."""
        await self.openai.close()
        await self.anthropic.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
