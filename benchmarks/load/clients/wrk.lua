-- For wrk: bodies from a file in turns, an id of its own for each mark "@", texts counted in the answers.
-- wrk ... -- PATH BODIES IDS TEXT...
-- One thread only, so that the ids of one counter are unique.

local threads = {}

function setup(thread)
   table.insert(threads, thread)
end

function init(arguments)
   path, file, prefix = arguments[1], arguments[2], arguments[3]
   texts, counts, number, failures, refusal = {}, {}, 0, 0, ""
   for i = 4, #arguments do
      table.insert(texts, arguments[i])
      table.insert(counts, 0)
   end
   lines = io.lines(file)
   headers = {["Content-Type"] = "application/json"}
end

local function new_id()
   number = number + 1
   return prefix .. string.format("%08d", number)
end

function request()
   local line = lines()
   if line == nil then
      lines = io.lines(file)
      line = lines()
   end
   return wrk.format("POST", path, headers, (line:gsub("@", new_id)))
end

function response(status, headers, body)
   if status ~= 200 then
      failures = failures + 1
      if refusal == "" then
         refusal = status .. " " .. body:sub(1, 300)
      end
      return
   end
   for i = 1, #texts do
      local from, text = 1, texts[i]
      while true do
         local at = body:find(text, from, true)
         if at == nil then
            break
         end
         counts[i] = counts[i] + 1
         from = at + #text
      end
   end
end

local function quoted(text)
   return '"' .. text:gsub('[%c"\\]', function(c) return string.format("\\u%04x", c:byte()) end) .. '"'
end

function done(summary, latency, requests)
   local thread, errors = threads[1], summary.errors
   local parts = {}
   for i, count in ipairs(thread:get("counts")) do
      parts[i] = tostring(count)
   end
   io.write(string.format(
      '\n{"seconds": %.6f, "requests": %d, "failures": %d, "socket_errors": %d, "refusal": %s, "counts": [%s],'
         .. ' "p50": %.3f, "p99": %.3f, "p99.9": %.3f, "max": %.3f}\n',
      summary.duration / 1e6, summary.requests, thread:get("failures"),
      errors.connect + errors.read + errors.write + errors.timeout,
      quoted(thread:get("refusal")), table.concat(parts, ", "),
      latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency:percentile(99.9) / 1e3,
      latency.max / 1e3))
end
