"""Ask one question with OpenAI's client: chat.py [ADDRESS] [QUESTION]. Needs `pip install openai`."""

import sys

from openai import OpenAI

address = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
question = sys.argv[2] if len(sys.argv) > 2 else "What is the capital of France?"

# Any key does where the service has none.
client = OpenAI(base_url=f"{address}/v1", api_key="none")
model = client.models.list().data[0].id
answer = client.chat.completions.create(
    model=model,
    messages=[{"role": "user", "content": question}],
    temperature=0,
    max_tokens=64,
)
print(answer.choices[0].message.content)
