# The two commands: `make demo` and `make test`. Each installs what this machine lacks, says so, and does nothing when it is there.

.DEFAULT_GOAL := help
.PHONY: help demo test tools-build tools-test

CARGO ?= cargo

help: ## What can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The demo's own profile optimises nothing, so that a first build takes some eight minutes on two cores, where a release build takes over half
# an hour. Servers and benchmarks want `cargo build --release`.
demo: tools-build ## New York's flights and weather of 2013, a guided session; then goes on serving (Ctrl-C ends it)
	@echo "building Tidegate and its libraries, unless they are: about eight minutes on two cores, the first time only"
	@$(CARGO) run --locked --profile demo -- demo

test: tools-build tools-test ## Every test, with a real gateway, a real Redis and real clients
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
		$(CARGO) nextest run --locked; \
	else \
		$(CARGO) test --locked; \
	fi

# Lance's build reads protoc's own .proto files, which Debian packs apart.
tools-build:
	@./.ci/need 'command -v cc' build-essential gcc
	@./.ci/need 'ls "$$(dirname "$$(command -v protoc)")/../include/google/protobuf/any.proto"' 'protobuf-compiler libprotobuf-dev' protobuf

tools-test:
	@./.ci/need 'command -v redis-server' redis-server redis
	@./.ci/need 'command -v openssl' openssl openssl
	@./.ci/need 'command -v psql' postgresql-client postgresql@14
	@./.ci/need 'python3 -c "import ensurepip, venv"' python3-venv python3
