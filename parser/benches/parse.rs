//! How fast Dockerfiles are read: an ordinary large one, and hostile ones in two sizes, so that it shows when one of
//! them takes more than its share of time.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rbuild_parser::{Source, parse};

/// Forty lines as they are found in the wild, over and over.
const STAGE: &str = r#"# a comment about the stage
FROM --platform=linux/amd64 debian:bookworm-slim AS stage
ARG VERSION=1.2.3 TARGET=release
ENV PATH=/usr/local/bin:$PATH LANG=C.UTF-8 \
    APP_HOME="/srv/my app" APP_USER=app
LABEL org.opencontainers.image.title="An image" org.opencontainers.image.version=$VERSION
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
    --mount=type=bind,source=scripts,target=/scripts \
    apt-get update && apt-get install -y --no-install-recommends \
        ca-certificates \
        curl \
        # a comment between
        git \
    && rm -rf /var/lib/apt/lists/*
WORKDIR ${APP_HOME:-/srv}/build
COPY --chown=1000:1000 --chmod=0644 package.json package-lock.json ./
COPY --from=builder /out/bin /usr/local/bin/
ADD --checksum=sha256:24454f830cdb571e2c4ad15481119c43b3cafd48dd869a9b2945d1036d1dc68d https://example.com/a.tgz /tmp/
RUN ["/bin/sh", "-c", "echo \"hello\""]
RUN <<EOF
set -e
for i in 1 2 3; do
  echo "$i"
done
EOF
COPY <<-'CONF' /etc/app.conf
	[server]
	port = 8080
	CONF
EXPOSE 8080/tcp 9000-9010/udp
VOLUME ["/data", "/var/lib/app"]
USER ${APP_USER}:app
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=3s --retries=3 CMD curl -f http://localhost:8080/ || exit 1
ONBUILD COPY . /app/src
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENTRYPOINT ["/usr/local/bin/entrypoint"]
CMD ["serve", "--port", "8080"]

"#;

fn ordinary(lines: usize) -> String {
    STAGE.repeat(lines.div_ceil(STAGE.lines().count()))
}

type Make = fn(usize) -> String;

const HOSTILE: [(&str, Make); 9] = [
    ("unterminated-quotes", |n| {
        format!("FROM a\n{}", "ENV A=\"open 'x\n".repeat(n))
    }),
    ("quotes-in-one-line", |n| {
        format!("FROM a\nENV A=b {}", "\"x' \\\n".repeat(n))
    }),
    ("unterminated-heredocs", |n| {
        let lines = (0..n).map(|i| format!("RUN cat <<E{i}\n"));
        format!("FROM a\n{}", lines.collect::<String>())
    }),
    ("tab-heredocs", |n| {
        let lines = (0..n).map(|i| format!("RUN cat <<-E{i}\n"));
        format!("FROM a\n{}", lines.collect::<String>())
    }),
    ("heredocs-in-one-line", |n| {
        format!(
            "FROM a\nRUN x{}\n{}",
            " <<A \\\n".repeat(n),
            "A\n".repeat(n)
        )
    }),
    ("nested-braces", |n| {
        format!("FROM a\nENV A=${{A:-\\\n{}\n", "${A:-\\\n".repeat(n))
    }),
    ("continuations", |n| {
        format!("FROM a\nRUN x{}\n", " \\\n  y".repeat(n))
    }),
    ("json-brackets", |n| {
        format!("FROM a\nRUN {}\n", "[\\\n".repeat(n))
    }),
    ("unknown-instructions", |n| {
        format!("FROM a\n{}", "COPPY x y\n".repeat(n))
    }),
];

fn benchmark(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ordinary");
    group.sample_size(10);
    for lines in [40, 100_000] {
        let text = ordinary(lines);
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_with_input(
            BenchmarkId::from_parameter(lines),
            &text,
            |bencher, text| {
                let source = || Source::new("Dockerfile", text.as_bytes());
                bencher.iter_batched(source, |source| parse(&source), BatchSize::LargeInput);
            },
        );
    }
    group.finish();

    let mut group = criterion.benchmark_group("hostile");
    group.sample_size(10);
    for (name, make) in HOSTILE {
        for size in [25_000, 100_000] {
            let text = make(size);
            group.throughput(Throughput::Bytes(text.len() as u64));
            group.bench_with_input(BenchmarkId::new(name, size), &text, |bencher, text| {
                let source = || Source::new("Dockerfile", text.as_bytes());
                bencher.iter_batched(source, |source| parse(&source), BatchSize::LargeInput);
            });
        }
    }
    group.finish();
}

criterion_group!(benches, benchmark);
criterion_main!(benches);
