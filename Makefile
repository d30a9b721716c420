# holdfast: connections that stay up. `make help` lists the targets and the variables.
#
# GNU make, out of tree: everything made lands under $(BUILD). Sources are found by wildcard, one object
# each, so that a new file needs no edit here. What is not binary compatible with the default build
# (URING=0, SANITIZE=...) has a directory of its own below $(BUILD); whoever changes CXX or CXXFLAGS in
# one directory gets a rebuild of it, never a mixture.

VERSION  := $(shell awk '/define HOLDFAST_VERSION / { gsub(/"/, "", $$3); print $$3 }' include/holdfast/version.h)

BUILD    ?= build
PREFIX   ?= /usr/local
DESTDIR  ?=
URING    ?= 1
SANITIZE ?=
V        ?= 0
SEEDS    ?= 2000
FIRST    ?= 1
JOBS     ?= $(shell nproc)
SECONDS  ?= 60
FUZZ_SEED ?=
TARGETS  ?=
LINKS    ?= 10000
OUTAGE   ?= 60s
DURATION ?= 60s
SEED     ?=

ifeq ($(origin CXX),default)
CXX := g++
endif
AR         ?= ar
PKG_CONFIG ?= pkg-config
PYTHON     ?= python3
INSTALL    ?= install

.SUFFIXES:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := all
MAKEFLAGS += --no-builtin-rules --no-print-directory
Q    := $(if $(filter 1,$(V)),,@)
say   = @printf '  %-7s %s\n' $1 $2
comma := ,

# --- Where things go -----------------------------------------------------------------------------------

ifeq (,$(filter 0 1,$(URING)))
$(error URING=$(URING): 1 (io_uring and epoll) or 0 (epoll only))
endif
sanitizer_name = $(if $(filter fuzzer%,$1),fuzz,$(if $(filter address address$(comma)undefined,$1),asan,$(if $(filter thread,$1),tsan,$(subst $(comma),-,$1))))
empty   :=
space   := $(empty) $(empty)
variant := $(subst $(space),-,$(strip $(if $(filter 0,$(URING)),epoll) $(if $(SANITIZE),$(call sanitizer_name,$(SANITIZE)))))
OUT     := $(BUILD)$(if $(variant),/$(variant))
OBJ     := $(OUT)/obj
BIN     := $(OUT)/bin
LIB     := $(OUT)/lib

# --- Packages ------------------------------------------------------------------------------------------
# A missing one stops make with its name and the command that installs it; what is asked for decides what
# is needed, so that `make help` works on a machine that has nothing.

PACKAGES      := absl_status absl_statusor absl_any_invocable absl_strings
PRIVATE       := $(if $(filter 1,$(URING)),liburing)
TOOL_PACKAGES := absl_flags absl_flags_parse absl_flags_usage
TEST_PACKAGES := gmock_main gmock gtest

debian_package = $(if $(filter absl_%,$1),libabsl-dev,$(if $(filter gmock%,$1),libgmock-dev,$(if $(filter gtest%,$1),libgtest-dev,$1-dev)))
missing        = $(strip $(foreach p,$1,$(if $(shell $(PKG_CONFIG) --exists $p 2>/dev/null && echo yes),,$p)))
not_found      = $(error $1 not found: apt-get install $(sort $2) (or run tools/bootstrap.sh))
require_tool   = $(if $(shell command -v $(firstword $1) 2>/dev/null),,$(call not_found,$(firstword $1),$2))
require        = $(if $(shell $(PKG_CONFIG) --exists $1 2>/dev/null && echo yes),,$(call require_all,$(call missing,$1)))
require_all    = $(if $1,$(call not_found,$1,$(foreach p,$1,$(call debian_package,$p))))

goals     := $(or $(MAKECMDGOALS),all)
no_build  := help clean format uninstall mutants mutants-drawn check-mutants check-floors check-errno check-waitall check-references check-format
no_tests  := all lib demo sim herd fuzz fuzz-merge fuzz-targets check-sim docs install tidy check-headers check-nm check-docs check-compilers check-fuzz check-no-uring check-install
ifneq (,$(filter-out $(no_build),$(goals)))
  $(call require_tool,$(PKG_CONFIG),pkg-config)
  $(call require_tool,$(CXX),$(if $(findstring clang,$(CXX)),clang,g++))
  $(call require,$(PACKAGES) $(PRIVATE) $(TOOL_PACKAGES))
  ifneq (,$(filter-out $(no_build) $(no_tests),$(goals)))
    $(call require,$(TEST_PACKAGES))
    $(call require_tool,$(PYTHON),python3)
  endif
  # Headers of packages are not ours to warn about.
  system_headers  = $(patsubst -I%,-isystem%,$(shell $(PKG_CONFIG) --cflags $1))
  PACKAGE_CFLAGS := $(call system_headers,$(PACKAGES) $(PRIVATE) $(TOOL_PACKAGES))
  PACKAGE_LIBS   := $(shell $(PKG_CONFIG) --libs $(PACKAGES) $(PRIVATE))
  TOOL_LIBS      := $(shell $(PKG_CONFIG) --libs $(TOOL_PACKAGES) $(PACKAGES) $(PRIVATE))
  TEST_CFLAGS     = $(call system_headers,$(TEST_PACKAGES))
  TEST_LIBS       = $(shell $(PKG_CONFIG) --libs $(TEST_PACKAGES))
endif

# --- Flags ---------------------------------------------------------------------------------------------

LANGUAGE := -std=c++20 -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror
ifeq (,$(SANITIZE))
MODE     := -O2 -g -fno-omit-frame-pointer
else
MODE     := -O1 -g1 -fno-omit-frame-pointer -fno-optimize-sibling-calls -fsanitize=$(SANITIZE) -fno-sanitize-recover=all
# g++ 12 with a sanitizer takes std::stop_source for uninitialized (its own stop_token header).
MODE     += $(if $(findstring clang,$(CXX)),,-Wno-maybe-uninitialized)
# UBSan's vptr check probes memory through a pipe, and cries wolf in tests that use up all descriptors.
MODE     += $(if $(filter thread,$(SANITIZE)),,-fno-sanitize=vptr)
# A fuzzer lives from speed, and no comparison of ours hides a magic number from it.
MODE     += $(if $(filter fuzzer%,$(SANITIZE)),-O2 -fno-sanitize-coverage=trace-cmp)
# g++ says that a fence is not modelled; the only ones are in Abseil's flags, ours are none.
MODE     += $(if $(filter thread,$(SANITIZE)),$(if $(findstring clang,$(CXX)),,-Wno-tsan))
endif
DEFINES  := $(if $(filter 0,$(URING)),-DHOLDFAST_NO_URING)
COMPILE   = $(CXX) $(LANGUAGE) $(MODE) -pthread $(DEFINES) $(PACKAGE_CFLAGS)
LINK      = $(CXX) $(MODE) -pthread $(LDFLAGS)

# The first report ends the process: a test that only printed one would pass.
export ASAN_OPTIONS  ?= detect_leaks=1:halt_on_error=1:detect_stack_use_after_return=1:check_initialization_order=1:strict_init_order=1
export UBSAN_OPTIONS ?= halt_on_error=1:print_stacktrace=1
export TSAN_OPTIONS  ?= halt_on_error=1:second_deadlock_stack=1

# --- Sources -------------------------------------------------------------------------------------------

FLOORS  := base core machine sys backend reactor net sim
objects  = $(patsubst %.cc,$(OBJ)/%.o,$1)

MUTANT_PATCHES := $(sort $(wildcard tests/mutants/*.patch tests/mutants/kernel/*.patch))

# Test support, although it lives beside the Kernel that it wraps.
SUPPORT_SOURCES := $(wildcard src/sys/fault_kernel.cc tests/support/*.cc)
not_in_library  := src/sys/fault_kernel.cc src/sim/% $(if $(filter 0,$(URING)),$(wildcard src/backend/uring*.cc))
LIB_SOURCES     := $(filter-out $(not_in_library),$(foreach f,$(FLOORS),$(sort $(wildcard src/$f/*.cc))))

# Floor 6, a library of its own: who ships a program does not link it, who tests one does.
SIM_SOURCES     := $(filter-out $(if $(filter 0,$(URING)),$(wildcard src/sim/ring*.cc)),$(sort $(wildcard src/sim/*.cc)))

# holdfast-echo and holdfast-echod: one main each, everything else in tools/echo is shared.
ECHO_MAINS      := $(wildcard tools/echo/echo_main.cc tools/echo/echod_main.cc)
ECHO_SOURCES    := $(filter-out $(ECHO_MAINS),$(sort $(wildcard tools/echo/*.cc)))
PROGRAMS        := $(if $(filter %/echo_main.cc,$(ECHO_MAINS)),$(BIN)/holdfast-echo) \
                   $(if $(filter %/echod_main.cc,$(ECHO_MAINS)),$(BIN)/holdfast-echod)
TABLES          := $(if $(wildcard tools/print_tables.cc),$(BIN)/print_tables)

# The swarm: the runtime over the simulated kernel, a world for each seed.
SWARM_SOURCES   := $(sort $(wildcard tools/swarm/*.cc))
SWARM           := $(if $(filter 1,$(URING)),$(BIN)/holdfast-sim)

# The fuzzers: tests/fuzz/X_fuzz.cc with the corpus tests/fuzz/corpus/X, and what they share with the suite
# that plays their corpora again.
FUZZ_MAINS      := $(sort $(wildcard tests/fuzz/*_fuzz.cc))
FUZZ_SOURCES    := $(sort $(filter-out %_fuzz.cc %_test.cc,$(wildcard tests/fuzz/*.cc))) \
                   $(addprefix tools/swarm/,failing_new.cc host_oracle.cc link_checker.cc loop_checker.cc)
FUZZERS         := $(patsubst tests/fuzz/%.cc,$(BIN)/%,$(FUZZ_MAINS))

# The thundering herd: a main, and a library that its tests link.
HERD_MAIN       := tools/herd/herd_main.cc
HERD_SOURCES    := $(filter-out $(HERD_MAIN),$(sort $(wildcard tools/herd/*.cc)))
HERD            := $(BIN)/holdfast-herd

# One test binary a directory of tests: the floors from the ground up, then the rest, the programs last.
not_tested      := $(if $(filter 0,$(URING)),$(wildcard tests/backend/uring*_test.cc tests/sim/ring*_test.cc))
suite_sources    = $(filter-out $(not_tested),$(sort $(wildcard tests/$1/*_test.cc)))
suite_shares     = $(if $(filter fuzz,$1),$(FUZZ_SOURCES)) $(if $(filter memory,$1),tests/memory/failing_heap.cc) $(if $(filter netns,$1),tests/netns/cells.cc)
suites_found    := $(foreach s,$(sort $(patsubst tests/%/,%,$(dir $(wildcard tests/*/*_test.cc)))),$(if $(call suite_sources,$s),$s))
SUITES          ?= $(foreach s,$(FLOORS),$(filter $s,$(suites_found))) $(filter-out $(FLOORS) e2e strace,$(suites_found)) $(filter e2e strace,$(suites_found))
TESTS           := $(patsubst %,$(BIN)/%_test,$(strip $(SUITES)))

HOLDFAST_LIB := $(LIB)/libholdfast.a
SIM_LIB      := $(LIB)/libholdfast_sim.a
SUPPORT_LIB  := $(LIB)/libholdfast_test.a
ECHO_LIB     := $(LIB)/libholdfast_echo.a
HERD_LIB     := $(LIB)/libholdfast_herd.a

PUBLIC_HEADERS := $(sort $(wildcard include/holdfast/*.h))
CODE           := $(sort $(wildcard $(foreach d,include/holdfast $(FLOORS:%=src/%) tools tools/* tests/*,$d/*.h $d/*.cc)))

# --- What to make ----------------------------------------------------------------------------------------

##@ Build
all: lib $(PROGRAMS) $(SWARM) $(HERD) $(TABLES) ## the library and the tools
lib: $(HOLDFAST_LIB) $(SIM_LIB) ## libholdfast.a and libholdfast_sim.a alone
tests: $(TESTS) ## the test binaries, without running them

##@ Run
sim: $(SWARM) ## the swarm over the simulated kernel: SEEDS=2000 FIRST=1 JOBS=2; HOLDFAST_SEED=7 plays one again
	$(if $(SWARM),,$(error make sim needs both backends: URING=1))
	$(Q)$(SWARM) --first=$(FIRST) --seeds=$(SEEDS) --jobs=$(JOBS) $(if $(TARGETS),--targets)

herd: $(HERD) ## thundering herds, policy by policy, as CSV and SVG in build/herd: LINKS=10000 OUTAGE=60s JOBS=2
	$(Q)tools/herd/herd.sh $(HERD) $(OUT)/herd $(LINKS) $(OUTAGE) $(JOBS)

fuzz: ## the fuzzers, from their corpora: SECONDS=60 for each, FUZZ_SEED=N; finds go to $(BUILD)/fuzz/found
	$(Q)+$(FUZZ_MAKE) fuzz-targets
	$(Q)tools/fuzz.sh run $(BUILD)/fuzz $(SECONDS) '$(FUZZ_SEED)'

fuzz-merge: ## what make fuzz found, merged into tests/fuzz/corpus
	$(Q)+$(FUZZ_MAKE) fuzz-targets
	$(Q)tools/fuzz.sh merge $(BUILD)/fuzz

chaos: all ## 200 links against servers and a network that misbehave, their history judged: DURATION=60s SEED=N; then make matrix
	$(Q)$(PYTHON) -B tools/chaos/chaos.py --bin=$(BIN) --out=$(OUT)/chaos --duration=$(DURATION) $(if $(SEED),--seed=$(SEED))
	$(Q)+$(MAKE) matrix

mutants: ## 25 broken libraries against the swarm, then each guard against a surprise of the kernel removed: its tests must fail. SEEDS=2000
	$(Q)SEEDS=$(SEEDS) JOBS=$(JOBS) tools/swarm/mutants.sh $(BUILD) named
	$(Q)MUTANTS= JOBS=$(JOBS) tools/swarm/mutants.sh $(BUILD) kernel

mutants-drawn: ## DRAW=200 mutants drawn from DRAW_SEED=1: each by the swarm, and what it lets live by the tests
	$(Q)SEEDS=$(SEEDS) JOBS=$(JOBS) tools/swarm/mutants.sh $(BUILD) drawn || [ $$? -eq 1 ]  # Some live.
	$(Q)JOBS=$(JOBS) tools/swarm/mutants.sh $(BUILD) tests

demo: all ## server up, killed, revived; the link comes back, on both backends
	$(Q)HOLDFAST_BIN=$(abspath $(BIN)) tools/demo.sh

test: all tests ## build and run all tests; SUITES="base core" and FILTER='Timer*' narrow them
	$(Q)$(PYTHON) -B tools/check/run_tests.py --bin $(BIN) --log $(OUT)/test --sanitize='$(SANITIZE)' $(if $(FILTER),--filter='$(FILTER)') $(SUITES)

proof: ## what links say became of their messages, against what a real peer has read that is killed, stopped, cut off: 2,000 rounds, as root, 3 min
	$(Q)+HOLDFAST_PROOF=whole HOLDFAST_TEST_TIMEOUT=1800 $(MAKE) test SUITES=proof

matrix: ## every broken network and every death of docs/kernel.md, 8,000 links given up: in namespaces, as root, 9 min
	$(Q)+HOLDFAST_MATRIX=whole HOLDFAST_TEST_TIMEOUT=1800 $(MAKE) test SUITES=netns

sweep: ## the error table and errno 1 to 133, injected into every call; `make test` has an eighth of the latter
	$(Q)+HOLDFAST_SWEEP=whole $(MAKE) test SUITES=sweep

asan: ## the tests under AddressSanitizer, LeakSanitizer and UBSan
	$(Q)+$(MAKE) SANITIZE=address,undefined test

# A simulated world and the sweep are one thread by construction: there is nothing for ThreadSanitizer to
# see. Nor is there in the programs that strace(1) holds up at every call, or that tests/chaos measures.
tsan: ## the tests under ThreadSanitizer, but for those that are one thread
	$(Q)+$(MAKE) SANITIZE=thread test SUITES='$(filter-out sim herd fuzz strace sweep chaos proof,$(SUITES))' FILTER='$(or $(FILTER),-Sim/*)'

coverage: ## lines and branches that the tests reach, by clang's count; the table goes to $(BUILD)/coverage
	$(call require_tool,llvm-cov,llvm)
	$(Q)rm -rf $(COVERAGE)/profiles
	$(Q)+$(COVERAGE_MAKE) test
	$(Q)+$(COVERAGE_MAKE) sim SEEDS=400
	$(Q)llvm-profdata merge -sparse -o $(COVERAGE)/all.profdata $(COVERAGE)/profiles
	$(Q)$(PYTHON) -B tools/check/coverage.py $(COVERAGE)/all.profdata $(COVERAGE) $(patsubst $(BIN)/%,$(COVERAGE)/bin/%,$(TESTS) $(PROGRAMS) $(SWARM))

COVERAGE       := $(BUILD)/coverage
COVERAGE_FLAGS := -fprofile-instr-generate -fcoverage-mapping
COVERAGE_MAKE  := LLVM_PROFILE_FILE='$(abspath $(COVERAGE))/profiles/%4m.profraw' $(MAKE) CXX=clang++ BUILD=$(COVERAGE) \
                  CXXFLAGS='$(COVERAGE_FLAGS)' LDFLAGS='$(COVERAGE_FLAGS)'

# The steps run one after the other, so that the timed tests have the machine to themselves.
CHECKS := check-floors check-errno check-waitall check-references check-format check-headers check-nm check-docs \
          check-compilers check-mutants check-sim check-fuzz check-epoll check-install asan tsan
check: ## every check-* below, then asan and tsan
	$(Q)+tools/check/run_steps.sh $(foreach c,$(CHECKS),'$(MAKE) $c')

##@ Check, one by one
check-floors: ## includes go downward, and in no circle
	$(Q)$(PYTHON) -B tools/check/check_floors.py

check-errno: ## no errno constant outside core/error* and sys
	$(Q)$(PYTHON) -B tools/check/check_errno.py

check-waitall: ## MSG_WAITALL stands exactly once
	$(Q)$(PYTHON) -B tools/check/check_waitall.py

check-references: ## every document that a comment or a page names exists
	$(Q)$(PYTHON) -B tools/check/check_references.py

check-format: ## clang-format would change nothing
	$(Q)tools/check/check_format.sh $(CODE)

check-headers: ## each public header compiles alone, also without exceptions and RTTI
	$(Q)tools/check/check_headers.sh '$(LANGUAGE) $(PACKAGE_CFLAGS)' '$(CXX)' '$(OTHER_CXX)'

check-nm: lib ## no call of a socket function outside src/sys
	$(Q)$(PYTHON) -B tools/check/check_nm.py $(OBJ)/src $(call objects,$(LIB_SOURCES) $(SIM_SOURCES))

check-docs: $(TABLES) ## docs/errors.md and docs/link.md say what the tables say
	$(Q)$(if $(TABLES),$(PYTHON) -B tools/check/tables.py --check $(TABLES),tools/check/skip.sh check-docs 'there is no tools/print_tables.cc')

OTHER_CXX := $(if $(findstring clang,$(CXX)),g++,clang++)
check-compilers: ## the library and the tools with the other compiler
	$(Q)+if command -v $(OTHER_CXX) >/dev/null; then \
	  $(MAKE) CXX=$(OTHER_CXX) BUILD=$(BUILD)/$(OTHER_CXX) all && echo 'check-compilers: $(OTHER_CXX) is clean'; \
	else tools/check/skip.sh check-compilers '$(OTHER_CXX) is not installed: apt-get install $(if $(findstring clang,$(OTHER_CXX)),clang,g++)'; fi

check-sim: ## 2,000 seeds of the swarm, broad enough; 100 under ASan and UBSan; and 100 that are the same with the other compiler
	$(Q)+unset HOLDFAST_SEED; $(MAKE) sim SEEDS=2000 TARGETS=1
	$(Q)+unset HOLDFAST_SEED; $(MAKE) SANITIZE=address,undefined sim SEEDS=100
	$(Q)+unset HOLDFAST_SEED; MAKE='$(MAKE)' tools/check/check_determinism.sh $(BUILD) '$(OTHER_CXX)'

check-mutants: ## the named mutants still apply to the library that they break; `make mutants` tries them
	$(Q)for patch in $(MUTANT_PATCHES); do \
	  patch --dry-run -s -f -p1 <$$patch || { echo "check-mutants: $$patch does not apply"; exit 1; }; \
	done; echo "check-mutants: $(words $(MUTANT_PATCHES)) apply"

check-fuzz: ## the fuzzers build, and find nothing in ten seconds from their corpora on, with one seed
	$(Q)+if command -v clang++ >/dev/null; then $(MAKE) fuzz SECONDS=10 FUZZ_SEED=1; \
	else tools/check/skip.sh check-fuzz 'clang++ is not installed: apt-get install clang'; fi

check-epoll: ## the epoll-only build neither includes nor links liburing, and holds the contract
	$(Q)+$(MAKE) URING=0 SANITIZE= all check-no-uring
	$(Q)+$(MAKE) URING=0 SANITIZE= test SUITES='backend reactor'

check-no-uring:
	$(Q)tools/check/check_no_uring.sh $(HOLDFAST_LIB) $(PROGRAMS) && tools/check/check_no_uring.sh $(SIM_LIB)

check-install: all ## README's program builds from a clean prefix; uninstall leaves nothing
	$(Q)+MAKE='$(MAKE)' CXX='$(CXX)' tools/check/check_install.sh $(URING)

##@ Look after it
format: ## clang-format over all sources
	$(Q)clang-format -i $(CODE)

tidy: ## clang-tidy over the library and the tools (slow; not part of check)
	$(Q)clang-tidy --quiet $(LIB_SOURCES) $(SIM_SOURCES) $(ECHO_SOURCES) $(ECHO_MAINS) $(SWARM_SOURCES) $(HERD_SOURCES) $(HERD_MAIN) -- -xc++ $(LANGUAGE) $(INCLUDES_tools) $(DEFINES) $(PACKAGE_CFLAGS)

docs: $(BIN)/print_tables ## write the tables into docs/errors.md and docs/link.md
	$(Q)$(PYTHON) -B tools/check/tables.py --update $(BIN)/print_tables

clean: ## remove $(BUILD)
	$(Q)rm -rf $(BUILD)

##@ Install
install: all ## headers, libholdfast.a, libholdfast_sim.a, their .pc, the echo pair; PREFIX=/usr/local DESTDIR=
	$(call say,INSTALL,$(DESTDIR)$(PREFIX))
	$(Q)$(INSTALL) -d '$(DESTDIR)$(PREFIX)/include/holdfast' '$(DESTDIR)$(PREFIX)/lib/pkgconfig' '$(DESTDIR)$(PREFIX)/bin'
	$(Q)$(INSTALL) -m 644 $(PUBLIC_HEADERS) '$(DESTDIR)$(PREFIX)/include/holdfast'
	$(Q)$(INSTALL) -m 644 $(HOLDFAST_LIB) $(SIM_LIB) '$(DESTDIR)$(PREFIX)/lib'
	$(Q)for p in holdfast holdfast_sim; do \
	  sed -e 's|@PREFIX@|$(PREFIX)|; s|@VERSION@|$(VERSION)|; s|@REQUIRES@|$(PACKAGES)|; s|@PRIVATE@|$(PRIVATE)|' \
	    tools/$$p.pc.in >$(OUT)/$$p.pc || exit 1; \
	done
	$(Q)$(INSTALL) -m 644 $(OUT)/holdfast.pc $(OUT)/holdfast_sim.pc '$(DESTDIR)$(PREFIX)/lib/pkgconfig'
	$(Q)$(if $(strip $(PROGRAMS)),$(INSTALL) -m 755 $(PROGRAMS) '$(DESTDIR)$(PREFIX)/bin')

uninstall: ## remove exactly what install put there
	$(call say,REMOVE,$(DESTDIR)$(PREFIX))
	$(Q)cd '$(DESTDIR)$(PREFIX)' && rm -f $(PUBLIC_HEADERS) lib/libholdfast.a lib/libholdfast_sim.a lib/pkgconfig/holdfast.pc lib/pkgconfig/holdfast_sim.pc bin/holdfast-echo bin/holdfast-echod
	$(Q)cd '$(DESTDIR)$(PREFIX)' && if [ -d include/holdfast ]; then rmdir --ignore-fail-on-non-empty include/holdfast; fi

##@ Help
help: ## this list
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@printf '\nVariables\n'
	@printf '  %-16s %s\n' \
	  'BUILD=build' 'where everything goes: bin/, lib/, obj/' \
	  'CXX=g++' 'the compiler; clang++ works too' \
	  'CXXFLAGS=' 'flags to add, after ours' \
	  'URING=0' 'epoll only, without liburing (in $$(BUILD)/epoll)' \
	  'SANITIZE=' 'address,undefined or thread (in $$(BUILD)/asan, $$(BUILD)/tsan)' \
	  'LINKS=10000' 'of make herd; OUTAGE=60s JOBS=2 beside it' \
	  'SECONDS=60' 'of make fuzz, for each target' \
	  'DURATION=60s' 'of make chaos; SEED= plays a schedule again' \
	  'SEEDS=2000' 'of make sim; FIRST=1 JOBS=2 beside it' \
	  'PREFIX=/usr/local' 'where install puts things; DESTDIR= goes before it' \
	  'V=1' 'show the commands'

.PHONY: all lib tests demo coverage sim matrix proof sweep chaos herd fuzz fuzz-merge fuzz-targets mutants mutants-drawn test asan tsan check $(filter check-%,$(CHECKS)) check-no-uring format tidy docs clean install uninstall help FORCE

# --- How to make it --------------------------------------------------------------------------------------

# The command lines and the lists of objects are inputs as well: each is kept in a file that changes only
# when its text does, so that another CXXFLAGS recompiles and a deleted source leaves the archive.
text       = $(subst ','\'',$1)
keep_text  = @mkdir -p $(@D); printf '%s\n' '$(call text,$1)' | cmp -s - $@ || printf '%s\n' '$(call text,$1)' >$@
COMPILE_TXT := $(OBJ)/compile.txt
SOURCES_TXT := $(OBJ)/sources.txt
$(COMPILE_TXT): FORCE
	$(call keep_text,$(COMPILE) $(CPPFLAGS) $(CXXFLAGS) | $(LDFLAGS))
$(SOURCES_TXT): FORCE
	$(call keep_text,$(LIB_SOURCES) $(SIM_SOURCES) $(SWARM_SOURCES) $(SUPPORT_SOURCES) $(ECHO_SOURCES) $(HERD_SOURCES) $(FUZZ_MAINS) $(foreach s,$(suites_found),$(call suite_sources,$s) $(call suite_shares,$s)))

INCLUDES_src   := -Iinclude -Isrc
INCLUDES_tools := -Iinclude -Isrc -Itools
INCLUDES_tests := -Iinclude -Isrc -Itools -Itests
compile = $(Q)mkdir -p $(@D) && $(COMPILE) $1 $(CPPFLAGS) $(CXXFLAGS) -MMD -MP -c -o $@ $<

$(OBJ)/src/%.o: src/%.cc $(COMPILE_TXT)
	$(call say,CXX,$<)
	$(call compile,$(INCLUDES_src))
$(OBJ)/tools/%.o: tools/%.cc $(COMPILE_TXT)
	$(call say,CXX,$<)
	$(call compile,$(INCLUDES_tools))
$(OBJ)/tests/%.o: tests/%.cc $(COMPILE_TXT)
	$(call say,CXX,$<)
	$(call compile,$(INCLUDES_tests) $(TEST_CFLAGS))

# Made anew each time: `ar r` alone would keep the members of sources that are gone.
archive = $(Q)mkdir -p $(@D) && rm -f $@ && $(AR) rcs $@ $(filter %.o,$^)
link    = $(Q)mkdir -p $(@D) && $(LINK) -o $@ $(filter %.o,$^) $(filter %.a,$^) $1

$(HOLDFAST_LIB): $(call objects,$(LIB_SOURCES)) $(SOURCES_TXT)
	$(call say,AR,$@)
	$(archive)
$(SIM_LIB): $(call objects,$(SIM_SOURCES)) $(SOURCES_TXT)
	$(call say,AR,$@)
	$(archive)
$(SUPPORT_LIB): $(call objects,$(SUPPORT_SOURCES)) $(SOURCES_TXT)
	$(call say,AR,$@)
	$(archive)
$(ECHO_LIB): $(call objects,$(ECHO_SOURCES)) $(SOURCES_TXT)
	$(call say,AR,$@)
	$(archive)
$(HERD_LIB): $(call objects,$(HERD_SOURCES)) $(SOURCES_TXT)
	$(call say,AR,$@)
	$(archive)

$(BIN)/holdfast-echo: $(OBJ)/tools/echo/echo_main.o $(ECHO_LIB) $(HOLDFAST_LIB)
	$(call say,LINK,$@)
	$(call link,$(TOOL_LIBS))
$(BIN)/holdfast-echod: $(OBJ)/tools/echo/echod_main.o $(ECHO_LIB) $(HOLDFAST_LIB)
	$(call say,LINK,$@)
	$(call link,$(TOOL_LIBS))
$(BIN)/holdfast-sim: $(call objects,$(SWARM_SOURCES)) $(ECHO_LIB) $(SIM_LIB) $(HOLDFAST_LIB) $(SOURCES_TXT)
	$(call say,LINK,$@)
	$(call link,$(PACKAGE_LIBS))
$(HERD): $(OBJ)/tools/herd/herd_main.o $(HERD_LIB) $(SIM_LIB) $(HOLDFAST_LIB)
	$(call say,LINK,$@)
	$(call link,$(PACKAGE_LIBS))
$(BIN)/receive_buffers: $(OBJ)/tools/bench/receive_buffers.o $(HOLDFAST_LIB)
	$(call say,LINK,$@)
	$(call link,$(PACKAGE_LIBS))
$(BIN)/print_tables: $(OBJ)/tools/print_tables.o $(HOLDFAST_LIB)
	$(call say,LINK,$@)
	$(call link,$(PACKAGE_LIBS))

# libFuzzer is clang's; everything is instrumented for it, and it brings the main.
FUZZ_MAKE = $(MAKE) CXX=clang++ URING=1 SANITIZE=fuzzer-no-link,address,undefined
fuzz-targets: $(FUZZERS)
$(FUZZERS): $(BIN)/%: $(OBJ)/tests/fuzz/%.o $(call objects,$(FUZZ_SOURCES)) $(ECHO_LIB) $(SIM_LIB) $(HOLDFAST_LIB) $(SOURCES_TXT)
	$(call say,LINK,$@)
	$(call link,-fsanitize=fuzzer $(TOOL_LIBS))

# A main in tests/support comes before gmock's, which is then not linked.
define suite
$(BIN)/$1_test: $(call objects,$(call suite_sources,$1) $(call suite_shares,$1)) $(SUPPORT_LIB) $(ECHO_LIB) $(HERD_LIB) $(SIM_LIB) $(HOLDFAST_LIB) $(SOURCES_TXT)
	$$(call say,LINK,$$@)
	$$(call link,$$(TEST_LIBS) $$(TOOL_LIBS))
endef
$(foreach s,$(suites_found),$(eval $(call suite,$s)))

-include $(patsubst %.cc,$(OBJ)/%.d,$(LIB_SOURCES) $(SIM_SOURCES) $(SWARM_SOURCES) $(SUPPORT_SOURCES) $(ECHO_SOURCES) $(ECHO_MAINS) $(HERD_SOURCES) $(HERD_MAIN) $(FUZZ_MAINS) $(wildcard tools/print_tables.cc tools/bench/*.cc) $(foreach s,$(suites_found),$(call suite_sources,$s) $(call suite_shares,$s)))
