-- Asks for random lines of a file of paths: wrk -s wrk.lua URL -- FILE SEED
local requests = {}

function init(args)
	for path in io.lines(args[1]) do
		requests[#requests + 1] = wrk.format("GET", path)
	end
	math.randomseed(tonumber(args[2]))
end

function request()
	return requests[math.random(#requests)]
end

function done(summary, latency, requests)
	local e = summary.errors
	io.write(string.format(
		'\nbench {"Requests":%d,"Duration":%d,"Bytes":%d,"Refused":%d,"Broken":%d,"P50":%d,"P99":%d}\n',
		summary.requests, summary.duration, summary.bytes, e.status, e.connect + e.read + e.write + e.timeout,
		latency:percentile(50), latency:percentile(99)))
end
