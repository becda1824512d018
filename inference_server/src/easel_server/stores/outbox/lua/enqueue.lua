-- needs: jobs/fields outbox/hosts
-- Adds a webhook to the outbox, in the same step as the change that it reports.

local function enqueue_delivery(id, webhook, event, now)
  local is_json, target = pcall(cjson.decode, webhook)
  if not (is_json and type(target) == 'table' and type(target.url) == 'string' and type(target.events) == 'table') then
    return note_dropped('webhook', id)
  end
  for _, requested in ipairs(target.events) do
    if requested == event then
      local name = id .. '.' .. event
      local _, content = pcall(cjson.decode, redis.call('HGET', job_key(id), 'content') or '')
      local snapshot = cjson.encode(view(id))
      redis.call('HSET', key('delivery:' .. name), 'event', event, 'url', target.url, 'attempt', 0,
        'owner', type(content) == 'table' and content.owner or '', 'job', snapshot)
      local host = host_of(target.url)
      redis.call('ZADD', host_deliveries(host), integer(now), name)
      redis.call('ZADD', key('outbox'), 'LT', integer(now), host)
      notify('outbox:bell', 'outbox')
    end
  end
end
