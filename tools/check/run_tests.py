#!/usr/bin/env python3
"""Runs the test binaries one after the other and counts what really ran.

  run_tests.py --bin DIR --log DIR [--sanitize NAMES] [--filter PATTERN] SUITE...

Each SUITE is DIR/SUITE_test, a GoogleTest binary. The counts come from the report that GoogleTest writes at
its end; a binary that dies or hangs before that is counted from its output, and the test that it was in has
failed. So has a binary that ends with an error after its last test (a leak, a sanitizer's report). Skipped
and disabled tests are listed with their reasons. The last line is `N passed, N failed[, N skipped]`, alone;
the exit status is 0 only when something passed and nothing failed.

The tests find in their environment HOLDFAST_BIN (where the programs are) and HOLDFAST_ROOT (the repository,
also their working directory); HOLDFAST_TEST_TIMEOUT is the limit for one binary in seconds.

One at a time, because many tests measure time, and two cores that are both busy measure nothing.
"""
import argparse
import json
import os
import pathlib
import platform
import re
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
RUN = re.compile(r'\[ RUN      \] (\S+)')
END = re.compile(r'\[(       OK |  FAILED  |  SKIPPED )\] ([^\s,]+).*\(\d+ ms\)$')
TAIL_LINES = 60


class Result:
  """What one binary did: names of tests by outcome, and why it ended badly, if it did."""

  def __init__(self, suite):
    self.suite = suite
    self.passed, self.failed, self.skipped = [], {}, {}  # skipped and failed: name -> text
    self.seconds = 0.0


def blocks_of(output):
  """Name -> (outcome or None, lines) of each test that started, in order, from GoogleTest's output."""
  blocks, name = {}, None
  for line in output.splitlines():
    if match := RUN.search(line):
      name = match.group(1)
      blocks[name] = (None, [])
    if name:
      blocks[name][1].append(line)
      match = END.search(line)
      if match and match.group(2) == name:
        blocks[name] = (match.group(1).strip(), blocks[name][1])
        name = None
  return blocks


def report_of(path):
  """(name, result, failures) of each test of GoogleTest's report, or None when it did not write one."""
  try:
    report = json.loads(path.read_text(encoding='utf-8'))
  except (OSError, ValueError):
    return None
  return [(f"{suite['name']}.{test['name']}", test.get('result'), test.get('failures', []))
          for suite in report.get('testsuites', []) for test in suite.get('testsuite', [])]


def skip_reason(lines):
  """What GTEST_SKIP() << ... said: the lines after `file:line: Skipped`."""
  for i, line in enumerate(lines):
    if line.endswith(': Skipped'):
      return ' '.join(part.strip() for part in lines[i + 1:-1] if part.strip()) or 'no reason given'
  return 'no reason given'


def tail(output):
  return '\n'.join(output.splitlines()[-TAIL_LINES:])


def in_short(text):
  """A failure in a line: where it was, and the start of what it said."""
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  first = next((i for i, line in enumerate(lines) if line.endswith(': Failure')), len(lines) - 4)
  return ' | '.join(lines[max(first, 0):][:6])[:400]


def ended_badly(status, timed_out, limit):
  if timed_out:
    return f'did not end within {limit} s'
  if status < 0:
    return f'killed by {signal.Signals(-status).name}'
  return f'ended with status {status}'


def judge(result, output, report, status, how, options):
  blocks = blocks_of(output)
  if report is None:
    for name, (outcome, lines) in blocks.items():
      if outcome == 'OK':
        result.passed.append(name)
      elif outcome == 'SKIPPED':
        result.skipped[name] = skip_reason(lines)
      else:
        result.failed[name] = '\n'.join(lines[-TAIL_LINES:] + ([] if outcome else [f'... {how}']))
    if not any(outcome is None for outcome, _ in blocks.values()):
      result.failed[f'{result.suite}_test'] = f'{tail(output)}\n... {how}, without a report'
    return
  for name, outcome, failures in report:
    if failures or blocks.get(name, ('', []))[0] == 'FAILED':
      result.failed[name] = '\n'.join(blocks.get(name, (None, [str(failures)]))[1])
    elif outcome == 'COMPLETED':
      result.passed.append(name)
    elif outcome == 'SKIPPED':
      result.skipped[name] = skip_reason(blocks.get(name, (None, []))[1])
    else:
      result.skipped[name] = 'disabled'
  if not report and not options.filter:
    result.failed[f'{result.suite}_test'] = 'it has no tests'
  if status != 0 and not result.failed:
    result.failed[f'{result.suite}_test'] = f'{tail(output)}\n... every test passed, but the binary {how}'


def run(suite, options, prefix, environment):
  result = Result(suite)
  log, report = options.log / f'{suite}.log', options.log / f'{suite}.json'
  report.unlink(missing_ok=True)
  command = prefix + [str(options.bin / f'{suite}_test'), f'--gtest_output=json:{report}', '--gtest_color=no']
  if options.filter:
    command.append(f'--gtest_filter={options.filter}')
  start, timed_out = time.monotonic(), False
  with log.open('wb') as out:
    try:
      process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=out,
                                 stderr=subprocess.STDOUT, start_new_session=True)
    except OSError as error:
      result.failed[f'{suite}_test'] = f'cannot run {command[-2]}: {error}'
      return result
    try:
      status = process.wait(options.timeout)
    except subprocess.TimeoutExpired:
      timed_out = True
    finally:
      # The whole session, so that no server of a test survives it, whatever way it ended.
      try:
        os.killpg(process.pid, signal.SIGKILL)
      except ProcessLookupError:
        pass
      status = process.wait()
  result.seconds = time.monotonic() - start
  judge(result, log.read_text(encoding='utf-8', errors='replace'), report_of(report), status,
        ended_badly(status, timed_out, options.timeout), options)
  return result


def without_aslr():
  """A prefix that switches off address randomization, or nothing where that is forbidden.

  The sanitizers of g++ 12 and clang 14 do not start reliably where the kernel randomizes more than 28 bits.
  """
  prefix = ['setarch', platform.machine(), '-R']
  try:
    subprocess.run(prefix + ['true'], check=True, stderr=subprocess.DEVNULL)
    return prefix
  except (OSError, subprocess.CalledProcessError):
    return []


def options_of(arguments):
  parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
  parser.add_argument('--bin', type=pathlib.Path, required=True)
  parser.add_argument('--log', type=pathlib.Path, required=True)
  parser.add_argument('--sanitize', default='')
  parser.add_argument('--filter', default='')
  parser.add_argument('suites', nargs='*')
  options = parser.parse_args(arguments)
  options.bin, options.log = options.bin.resolve(), options.log.resolve()
  options.timeout = int(os.environ.get('HOLDFAST_TEST_TIMEOUT') or (900 if options.sanitize else 300))
  return options


def main():
  options = options_of(sys.argv[1:])
  options.log.mkdir(parents=True, exist_ok=True)
  environment = dict(os.environ, HOLDFAST_BIN=str(options.bin), HOLDFAST_ROOT=str(ROOT))
  prefix = without_aslr() if options.sanitize else []
  results = []
  for suite in options.suites:
    result = run(suite, options, prefix, environment)
    results.append(result)
    counts = f'{len(result.passed):5} passed'
    counts += f', {len(result.skipped)} skipped' if result.skipped else ''
    counts += f', {len(result.failed)} FAILED' if result.failed else ''
    print(f'  TEST    {suite:<10}{counts}  ({result.seconds:.1f} s)', flush=True)

  for result in results:
    for name, text in result.failed.items():
      print(f'\n---- FAILED: {name} ({options.log / result.suite}.log)\n{text}')
  for title, of in (('SKIPPED', lambda r: r.skipped), ('FAILED', lambda r: r.failed)):
    entries = [(result.suite, name, text) for result in results for name, text in of(result).items()]
    if entries:
      print(f'\n{title} ({len(entries)}):')
      for suite, name, text in entries:
        print(f'  {suite}_test  {name}: {text if title == "SKIPPED" else in_short(text)}')

  passed, failed, skipped = (sum(len(of(r)) for r in results)
                             for of in (lambda r: r.passed, lambda r: r.failed, lambda r: r.skipped))
  if passed + failed == 0:
    print('\nno test ran')
  print(f'{passed} passed, {failed} failed' + (f', {skipped} skipped' if skipped else ''))
  return 0 if passed and not failed else 1


sys.exit(main())
