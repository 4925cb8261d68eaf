output "security_group_id" {
  description = "The engine's security group."
  value       = aws_security_group.engine.id
}

output "role_arn" {
  description = "What the engine may do; attach the rights of routes that this module does not know: streams, buckets."
  value       = aws_iam_role.engine.arn
}

output "log_group" {
  description = "Where the engine's log is."
  value       = aws_cloudwatch_log_group.engine.name
}

output "services" {
  description = "The ECS service of each slice."
  value       = { for number, service in aws_ecs_service.slice : number => service.name }
}
