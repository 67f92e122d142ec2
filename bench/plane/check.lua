-- Looks at the status and the body of every answer, and prints what was found as one JSON line.
-- usage: wrk ... -s check.lua URL -- PATHS_FILE CONTENT_FILE ANSWER_FILE MEDIA_TYPE EACH
--   EACH is 1 when there is one connection: then the time of each call is taken here, because
--   wrk's own percentiles are corrected by what it believes it should have sent.

local ffi = require("ffi")
ffi.cdef [[
  struct bench_time { long s; long ns; };
  int clock_gettime(int clock, struct bench_time *now);
]]
local MONOTONIC = 1
local clock = ffi.new("struct bench_time")

local threads = {}
local contents, wanted, each, turn, began = {}, "", false, 0, 0
answered, wrong, example, times = 0, 0, "", {}

local function now_us()
  ffi.C.clock_gettime(MONOTONIC, clock)
  return tonumber(clock.s) * 1e6 + tonumber(clock.ns) / 1e3
end

local function read(path)
  local file = assert(io.open(path, "rb"))
  local content = file:read("*a")
  file:close()
  return content
end

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  local content, headers = read(args[2]), { ["Content-Type"] = args[4] }
  for path in io.lines(args[1]) do
    table.insert(contents, wrk.format("POST", path, headers, content))
  end
  wanted = read(args[3])
  each = args[5] == "1"
end

function request()
  turn = turn % #contents + 1
  if each then began = now_us() end
  return contents[turn]
end

function response(status, headers, body)
  if each then
    local us = math.floor(now_us() - began + 0.5)
    times[us] = (times[us] or 0) + 1
  end
  answered = answered + 1
  if status ~= 200 or body ~= wanted then
    wrong = wrong + 1
    example = status .. " " .. string.sub(body, 1, 200)
  end
end

function done(summary, latency, requests)
  local thread = threads[1]
  local counts = {}
  for us, count in pairs(thread:get("times")) do
    table.insert(counts, string.format("[%d,%d]", us, count))
  end
  if #counts == 0 then
    for percent = 0.05, 99.95, 0.1 do
      table.insert(counts, string.format("[%d,1]", latency:percentile(percent)))
    end
  end
  local errors = summary.errors
  local text = string.gsub(thread:get("example"), "[^%w%p ]", "?")
  print(string.format(
    '{"answered":%d,"wrong":%d,"broken":%d,"seconds":%.6f,"example":"%s","times":[%s]}',
    thread:get("answered"), thread:get("wrong"),
    errors.connect + errors.read + errors.write + errors.timeout,
    summary.duration / 1e6, (string.gsub(text, '["\\]', "'")), table.concat(counts, ",")
  ))
end
