# The image of all of docker-compose.yml's own services, with all that a search may ask for over HTTP.
# docker-compose.gpu.yml builds it with TORCH=cuda. For Kubernetes, `kubernetes` is one of its EXTRAS
# more; docs/kubernetes.md.
FROM python:3.11-slim-bookworm

ARG TORCH=cpu
ARG EXTRAS=bayes,compressed-tensors,dashboard,pareto,postgres,recovery,service,sweep

RUN useradd --create-home --uid 10001 autocompress \
    && mkdir -p /app /cache /data /models \
    && chown autocompress /app /cache /data
WORKDIR /app
USER autocompress

# What changes seldom comes first: torch and all other packages.
COPY --chown=autocompress constraints.txt pyproject.toml README.md LICENSE ./
COPY --chown=autocompress scripts ./scripts
RUN python -m venv /app/venv && /app/venv/bin/python scripts/install_torch.py --for "$TORCH"
COPY --chown=autocompress autocompress ./autocompress
RUN /app/venv/bin/python -m pip install --no-cache-dir -c constraints.txt \
    ".[$EXTRAS]"

ENV PATH=/app/venv/bin:$PATH AUTOCOMPRESS_CACHE=/cache HF_HOME=/cache/huggingface \
    RAY_USAGE_STATS_ENABLED=0
ENTRYPOINT ["/app/scripts/container.sh"]
CMD ["autocompress", "--help"]
