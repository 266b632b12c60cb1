# GPU image: the official vLLM image brings CUDA, torch, transformers and vLLM; only the rest is added.
# Build:  docker build -t prunebench .
# Run:    docker run --gpus all -p 8000:8000 -v $PWD/variants:/variants prunebench serve /variants --host 0.0.0.0
ARG VLLM_VERSION=v0.26.0
FROM vllm/vllm-openai:${VLLM_VERSION}

WORKDIR /opt/prunebench
COPY pyproject.toml README.md LICENSE ./
COPY artifacts artifacts
COPY compressors compressors
COPY dashboards dashboards
COPY laws laws
COPY loadtest loadtest
COPY modeling modeling
COPY prunebench prunebench
COPY server server

# What the image already has (torch, transformers, vLLM, FastAPI) stays as it is: its versions belong together.
RUN python3 -m pip install --no-cache-dir "locust>=2.47" "peft>=0.18" "plotly>=6.0" "pyarrow>=20" "scipy>=1.15" \
    "statsmodels>=0.15" \
    && python3 -m pip install --no-cache-dir --no-deps .

EXPOSE 8000
STOPSIGNAL SIGTERM
ENTRYPOINT ["prunebench"]
CMD ["--help"]
